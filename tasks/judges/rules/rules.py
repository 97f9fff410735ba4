"""The judge by rules: versioned measures of a text, each 0 to 1 with a weight; the better weighted mean wins.

It is cheap, offline, deterministic and explainable: a verdict holds the score of every rule for both
answers. It judges by its rules alone, so it suits tasks whose requirements can be written as rules
(a tone, a topic, a length, a clean end).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from tasks.core.files import digest_of
from tasks.core.section import Rule, Section, at_least, band
from tasks.judges.protocol.protocol import Answer, Response, Score
from tasks.judges.rules.texts import STOP_WORDS, contains_phrase, content_words, distinct_ngram_share, words

# A scorer whose meaning changes gets a new number: the judge's fingerprint then changes with it.
VERSIONS = {"required": 1, "forbidden": 1, "overlap": 1, "length": 1, "repetition": 1, "ending": 1, "gold": 1}
_ENDS = (".", "!", "?", "…", "。", "！", "？")
_CLOSERS = "\"'”’)]*"
REPETITION_NGRAM = 3  # words in the n-grams of the rule `repetition`
Phrase = Annotated[str, Rule(lambda text: bool(words(text)), "a phrase needs at least one word: remove it")]
Weight = Annotated[float, at_least(0, "where 0 switches the rule off")]


@dataclasses.dataclass(frozen=True)
class RulesConfig(Section, path="winrate.rules"):
    """The rules of the rule judge: their weights, and what they look for.

    Attributes:
        weights: The weight of each rule by its name; a rule that is not named, or has weight 0, is off. `required`: the
            share of `required_groups` with a phrase in the answer. `forbidden`: containing none of
            `forbidden_phrases`. `overlap`: being on topic, the share of the question's content words that the answer
            uses. `length`: as many words as `words` allows. `repetition`: the share of distinct word triples.
            `ending`: ending by itself with the punctuation that ends a sentence. `gold`: word overlap (F1) with the
            held-out chosen answer.
        required_groups: Lists of phrases; any one phrase satisfies its list.
        forbidden_phrases: Phrases that an answer must not contain.
        topic_words: A closed vocabulary of topics: only these words count, and the score is Jaccard's (naming
            a wrong topic costs as much as missing one). Empty: any content word counts.
        words: Fewest and most words of a good answer.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        **{f"{name}_weight": f"write it as `winrate.rules.weights.{name}`" for name in VERSIONS},
        "min_words": "write `words: [FEWEST, MOST]`",
        "max_words": "write `words: [FEWEST, MOST]`",
        "repetition_ngram": f"delete it: the rule `repetition` counts n-grams of {REPETITION_NGRAM} words",
    }

    weights: dict[str, Weight]
    required_groups: tuple[tuple[Phrase, ...], ...]
    forbidden_phrases: tuple[Phrase, ...]
    topic_words: tuple[str, ...]
    words: Annotated[tuple[int, ...], band(1, "for example [15, 300]")]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.weights:
            self.require(name in VERSIONS, "weights", f"choose among: {', '.join(VERSIONS)}", name)
        self.require(any(self.weights.values()), "weights", "give at least one rule a weight above 0")
        is_given = all(self.required_groups) and (bool(self.required_groups) or not self.weights.get("required"))
        self.require(is_given, "required_groups", "give each group a phrase, or `weights.required: 0`")
        is_given = bool(self.forbidden_phrases) or not self.weights.get("forbidden")
        self.require(is_given, "forbidden_phrases", "give a phrase, or `weights.forbidden: 0`")

    def weight_by_rule(self) -> dict[str, float]:
        """Return the weight of every rule, 0 where none is given, in the order in which scores are summed."""
        return {name: float(self.weights.get(name, 0)) for name in VERSIONS}

    def settings(self) -> dict[str, Any]:
        """Return all settings under the names of the first version, so that equal rules keep their fingerprint."""
        weights = {f"{name}_weight": weight for name, weight in self.weight_by_rule().items()}
        texts = {name: getattr(self, name) for name in ("required_groups", "forbidden_phrases", "topic_words")}
        least, most = self.words
        return {**weights, **texts, "min_words": least, "max_words": most, "repetition_ngram": REPETITION_NGRAM}


@dataclasses.dataclass(frozen=True)
class RuleScores:
    """The scores of one answer: the weighted mean, and each rule's score (absent where the rule does not apply)."""

    total: float
    by_rule: dict[str, float]


class RuleScorer:
    """Scores an answer by the weighted mean of the rules; the higher mean wins, a small difference is a tie."""

    is_soft = False

    def __init__(self, config: RulesConfig, tie_margin: float) -> None:
        """Prepare the rules; scores that differ by `tie_margin` or less are a tie."""
        self._config = config
        self.dead_band = tie_margin
        self._topics = {word.casefold() for word in config.topic_words}
        self._required = [[words(phrase) for phrase in group] for group in config.required_groups]
        self._forbidden = [words(phrase) for phrase in config.forbidden_phrases]

    @property
    def fingerprint(self) -> str:
        """Digest of the rules' versions, the built-in stop words, every setting and the tie margin."""
        return digest_of(["rules", VERSIONS, sorted(STOP_WORDS), self._config.settings(), self.dead_band])

    def score(self, responses: Sequence[Response]) -> list[Score]:
        """Score every answer; the detail has the score of each rule."""
        scores = [self.rule_scores(item.prompt.question, item.answer, item.prompt.gold) for item in responses]
        return [Score(score.total, _shown(score)) for score in scores]

    def rule_scores(self, question: str, answer: Answer, gold: str | None = None) -> RuleScores:
        """Score one answer: Σ wᵢ·sᵢ / Σ wᵢ over the rules that apply and weigh above 0; an empty answer scores 0."""
        weights = {name: weight for name, weight in self._config.weight_by_rule().items() if weight > 0}
        if not words(answer.text):
            return RuleScores(0.0, dict.fromkeys(weights, 0.0))
        scorers = self._scorers(question, answer, gold)
        scores = {name: score for name in weights if (score := scorers[name]()) is not None}
        total = sum(weights[name] for name in scores)
        mean = sum(weights[name] * score for name, score in scores.items()) / total if total else 0.0
        return RuleScores(round(mean, 9), scores)

    def _scorers(self, question: str, answer: Answer, gold: str | None) -> dict[str, Callable[[], float | None]]:
        config, text = self._config, answer.text
        return {
            "required": lambda: required_share(text, self._required),
            "forbidden": lambda: float(not any(contains_phrase(words(text), phrase) for phrase in self._forbidden)),
            "overlap": lambda: overlap_share(question, text, self._topics),
            "length": lambda: length_score(len(words(text)), *config.words),
            "repetition": lambda: distinct_ngram_share(text, REPETITION_NGRAM),
            "ending": lambda: float(ends_cleanly(answer)),
            "gold": lambda: None if gold is None else word_f1(text, gold),
        }


def _shown(scores: RuleScores) -> dict[str, Any]:
    by_rule = {name: round(score, 6) for name, score in scores.by_rule.items()}
    return {"total": round(scores.total, 6), "rules": by_rule}


def required_share(text: str, groups: Sequence[Sequence[list[str]]]) -> float:
    """Return the share of groups with at least one phrase (a list of words) in the text."""
    text_words = words(text)
    return sum(any(contains_phrase(text_words, phrase) for phrase in group) for group in groups) / len(groups)


def overlap_share(question: str, text: str, topics: Collection[str] = ()) -> float | None:
    """Return how far the text is on the topic of the question; None when the question has no topic.

    Without `topics`: the share of the question's content words that the text uses. With them: topic words
    that both name over topic words that either names (Jaccard).
    """
    used = set(words(text))
    if topics:
        asked, named = set(words(question)) & set(topics), used & set(topics)
        return len(asked & named) / len(asked | named) if asked else None
    asked = content_words(question)
    return len(asked & used) / len(asked) if asked else None


def length_score(count: int, fewest: int, most: int) -> float:
    """Return 1 within the band, count/fewest below it, and 1 − (count − most)/most (never below 0) above it."""
    if count < fewest:
        return count / fewest
    return max(0.0, 1.0 - max(0, count - most) / most)


def ends_cleanly(answer: Answer) -> bool:
    """Tell whether the model stopped by itself and the text ends as a sentence does."""
    return answer.finish == "stop" and answer.text.rstrip().rstrip(_CLOSERS).endswith(_ENDS)


def word_f1(text: str, gold: str) -> float:
    """Return F1 = 2·common / (words of text + words of gold), counting repeated words as often as both have them."""
    counts, gold_counts = Counter(words(text)), Counter(words(gold))
    size = counts.total() + gold_counts.total()
    return 2 * (counts & gold_counts).total() / size if size else 0.0
