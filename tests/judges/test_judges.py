"""Rules, control judges and games: position is seen, missing stays missing, empty answers lose."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest

from tasks.core.errors import ConfigError
from tasks.estimation.estimates import consistency, first_position_share, per_prompt
from tasks.judges.evidence.judging import position
from tasks.judges.games.games import Comparison, Game, Verdict, pair_up
from tasks.judges.games.runners import PairRunner, PanelRunner, ScoreRunner
from tasks.judges.protocol.protocol import Answer, Item, Opinion, Prompt, Response, Score, Turn, Usage
from tasks.judges.rules.controls import RandomJudge
from tasks.judges.rules.rules import RulesConfig, RuleScorer, ends_cleanly, length_score, overlap_share, word_f1
from tasks.judges.rules.texts import distinct_ngram_share, words

RULES = RulesConfig(
    weights={"required": 1, "forbidden": 1, "overlap": 1, "length": 1, "repetition": 1, "ending": 1},
    required_groups=(("so sorry", "thank you"), ("leave it to me",)),
    forbidden_phrases=("not our problem",),
    topic_words=(),
    words=(4, 20),
)


def weighted(**weights: float) -> RulesConfig:
    """The rules with other weights for some."""
    return dataclasses.replace(RULES, weights={**RULES.weights, **weights})


QUESTION = "My radio has a crack, can you help?"
ASKED = Prompt((Turn("user", QUESTION),))
GOOD = Answer("I am so sorry about the crack in your radio. Leave it to me!")
CURT = Answer("That is not our problem.")
PAIR = Comparison("p", 0, ASKED, GOOD, CURT)


class FirstWins:
    """A judge that always prefers what it is shown first."""

    fingerprint = "first wins"

    async def judge(self, item: Item) -> Opinion:
        return Opinion("ok", 1.0)


class FailsOn:
    """A judge that answers `error` whenever a word is shown first, and else prefers the first."""

    fingerprint = "fails"

    def __init__(self, word: str) -> None:
        self.word = word

    async def judge(self, item: Item) -> Opinion:
        return Opinion("error", None) if self.word in item.first.text else Opinion("ok", 1.0)


class Marks:
    """A scorer that counts exclamation marks, and remembers what it was shown; a `?` cannot be scored."""

    fingerprint = "marks"

    def __init__(self, is_soft: bool = True, dead_band: float = 0.0) -> None:
        self.is_soft, self.dead_band = is_soft, dead_band
        self.seen: list[str] = []

    def score(self, responses: Sequence[Response]) -> list[Score]:
        texts = [response.answer.text for response in responses]
        self.seen += texts
        return [Score(None, status="error") if "?" in text else Score(float(text.count("!"))) for text in texts]


def _pairs(count: int) -> list[Comparison]:
    return [Comparison(f"p{i}", 0, ASKED, Answer(f"answer {i} a"), Answer(f"answer {i} b")) for i in range(count)]


def asked(judge: Any, pairs: Sequence[Comparison]) -> list[Verdict]:
    runner = ScoreRunner(judge) if hasattr(judge, "score") else PairRunner(judge)
    return list(runner.verdicts(pairs))


def played(judge: Any, pairs: Sequence[Comparison]) -> list[Game]:
    return list(pair_up(asked(judge, pairs)))


def test_a_judge_that_favours_a_position_shows_and_wins_nothing():
    games = played(FirstWins(), _pairs(10))
    first, second = [game.shown_first for game in games], [game.shown_second for game in games]
    assert first_position_share(first, second) == 1.0
    assert consistency(first, second) == 0.0
    assert set(per_prompt([game.prompt_id for game in games], first, second).values()) == {0.5}


def test_both_orders_are_really_shown_to_a_pair_judge():
    shown = []

    class Remembers(FirstWins):
        async def judge(self, item: Item) -> Opinion:
            shown.append((item.first.text, item.second.text, item.prompt))
            return Opinion("ok", 1.0, {"first": {"seen": item.first.text}})

    verdicts = asked(Remembers(), [PAIR])
    assert shown == [(GOOD.text, CURT.text, ASKED), (CURT.text, GOOD.text, ASKED)]
    assert [(verdict.order, verdict.p_candidate) for verdict in verdicts] == [("AB", 1.0), ("BA", 0.0)]
    assert [verdict.detail for verdict in verdicts] == [
        {"candidate": {"seen": GOOD.text}}, {"opponent": {"seen": CURT.text}}
    ]  # fmt: skip


def test_a_failed_verdict_is_missing_and_never_a_tie_win_or_loss():
    pair = Comparison("p", 0, ASKED, Answer("broken answer"), Answer("other"))
    verdicts = asked(FailsOn("broken"), [pair])
    assert [(verdict.status, verdict.p_candidate) for verdict in verdicts] == [("error", None), ("ok", 0.0)]
    assert math.isnan(next(pair_up(verdicts)).credit)


def test_identical_answers_are_a_tie_that_no_judge_is_asked_about():
    for judge, count in ((FailsOn(""), 2), (Marks(), 1)):
        verdicts = asked(judge, [dataclasses.replace(PAIR, opponent=GOOD)])
        assert [(verdict.status, verdict.p_candidate) for verdict in verdicts] == [("skipped_identical", 0.5)] * count
        assert not next(pair_up(verdicts)).is_judged


def test_a_cut_answer_is_not_identical_to_a_finished_one():
    assert not dataclasses.replace(PAIR, opponent=dataclasses.replace(GOOD, finish="length")).is_identical


def test_the_random_judge_comes_out_at_one_half():
    games = played(RandomJudge(0), _pairs(600))
    first, second = [game.shown_first for game in games], [game.shown_second for game in games]
    assert sum(first + second) / 1200 == pytest.approx(0.5, abs=0.05)
    assert consistency(first, second) == pytest.approx(0.5, abs=0.07)
    assert played(RandomJudge(0), _pairs(5)) == played(RandomJudge(0), _pairs(5))
    assert played(RandomJudge(1), _pairs(20)) != played(RandomJudge(0), _pairs(20))


def test_a_scorer_scores_each_answer_once_and_has_no_orders():
    marks = Marks()
    runner = ScoreRunner(marks)
    first = Comparison("p", 0, ASKED, Answer("Oh! No!"), Answer("Well."))
    verdicts = [*runner.verdicts([first, first]), *runner.verdicts([dataclasses.replace(first, sample=1)])]
    assert sorted(marks.seen) == ["Oh! No!", "Well."]
    assert {verdict.order for verdict in verdicts} == {"none"}
    assert not runner.has_orders
    games = list(pair_up(verdicts))
    assert not any(game.has_orders for game in games)
    assert position(games) == {"consistency": None, "first_position_share": None}


def test_soft_scores_are_log_odds_and_hard_ones_decide():
    pair = Comparison("p", 0, ASKED, Answer("Oh! No!"), Answer("Well."))
    assert asked(Marks(), [pair])[0].p_candidate == pytest.approx(1 / (1 + math.exp(-2)))
    assert asked(Marks(is_soft=False), [pair])[0].p_candidate == 1.0
    tie = asked(Marks(dead_band=2.0), [pair])[0]
    assert (tie.status, tie.p_candidate) == ("tie", 0.5)
    missing = asked(Marks(), [dataclasses.replace(pair, opponent=Answer("?"))])[0]
    assert (missing.status, missing.p_candidate) == ("error", None)


def test_a_panel_gives_the_mean_of_those_that_give_a_verdict():
    pair = Comparison("p", 0, ASKED, Answer("Oh! No!"), Answer("Well."))
    scorer, broken = ScoreRunner(Marks(is_soft=False)), PairRunner(FailsOn("Oh"))
    panel = PanelRunner({"marks": scorer, "fails": broken}, quorum=1)
    assert panel.has_orders
    # in AB the second member gives none, in BA it prefers the opponent, which is shown first
    assert [(verdict.order, verdict.p_candidate) for verdict in panel.verdicts([pair])] == [("AB", 1.0), ("BA", 0.5)]
    both = PanelRunner({"marks": scorer, "fails": broken}, quorum=2)
    assert [verdict.status for verdict in both.verdicts([pair])] == ["invalid", "tie"]
    assert panel.fingerprint != both.fingerprint
    alone = PanelRunner({"marks": scorer}, quorum=1)
    assert [verdict.order for verdict in alone.verdicts([pair])] == ["none"]


def test_usage_is_summed_over_verdicts():
    class Costly(FirstWins):
        async def judge(self, item: Item) -> Opinion:
            return Opinion("ok", 1.0, usage=Usage(tokens_in=10, cost=0.5, attempts=1, model="m"))

    runner = PairRunner(Costly())
    list(runner.verdicts(_pairs(3)))
    assert runner.usage == Usage(tokens_in=60, cost=3.0, attempts=6, model="m")


def test_many_items_are_judged_at_once_and_come_in_order():
    at_work, most = 0, 0

    class Slow(FirstWins):
        at_once = 8

        async def judge(self, item: Item) -> Opinion:
            nonlocal at_work, most
            at_work, most = at_work + 1, max(most, at_work + 1)
            await asyncio.sleep(0.02 if item.item_id == "p0/0" else 0)
            at_work -= 1
            return Opinion("ok", 1.0)

    verdicts = asked(Slow(), _pairs(50))
    assert [verdict.prompt_id for verdict in verdicts[::2]] == [f"p{i}" for i in range(50)]
    assert most == 8


def test_the_rules_prefer_the_warm_topical_answer_for_reasons_that_can_be_read():
    judge = RuleScorer(RULES, 0.02)
    good, curt = judge.rule_scores(QUESTION, GOOD), judge.rule_scores(QUESTION, CURT)
    assert good.total == 1.0
    assert curt.by_rule["required"] == curt.by_rule["forbidden"] == curt.by_rule["overlap"] == 0
    assert curt.total == pytest.approx(0.5)  # length, repetition and ending are fine: 3 of 6


@pytest.mark.parametrize("text", ["", " \n", "…", "."])
def test_an_answer_that_says_nothing_scores_nothing(text):
    assert RuleScorer(RULES, 0.02).rule_scores(QUESTION, Answer(text)).total == 0


def test_scores_within_the_margin_are_a_tie():
    assert asked(RuleScorer(RULES, 0.02), [PAIR])[0].status == "ok"
    assert asked(RuleScorer(RULES, 0.6), [PAIR])[0].status == "tie"


def test_rules_by_hand():
    assert overlap_share("A radio and a lamp?", "the radio", ()) == 0.5
    assert overlap_share("Can you help me?", "anything", ()) is None
    assert overlap_share("my radio has a crack", "radio lamp crack", ["radio", "lamp", "crack"]) == pytest.approx(2 / 3)
    assert [length_score(n, 4, 10) for n in (2, 4, 10, 15, 30)] == [0.5, 1.0, 1.0, 0.5, 0.0]
    assert distinct_ngram_share("a b a b a b", 2) == pytest.approx(2 / 5)
    assert ends_cleanly(Answer('He said "stop."'))
    assert not ends_cleanly(Answer("He said", "stop"))
    assert not ends_cleanly(Answer("He said.", "length"))
    assert word_f1("a b b", "b b c d") == pytest.approx(2 * 2 / 7)
    assert words("Don’t STOP, it's 3 o'clock") == ["don't", "stop", "it's", "3", "o'clock"]


def test_phrases_are_whole_words():
    judge = RuleScorer(dataclasses.replace(RULES, forbidden_phrases=("so what",)), 0)
    assert judge.rule_scores(QUESTION, Answer("It is so whatever now.")).by_rule["forbidden"] == 1.0
    assert judge.rule_scores(QUESTION, Answer("And? So,  WHAT of it.")).by_rule["forbidden"] == 0.0


def test_a_rule_without_a_say_is_left_out_for_both():
    judge = RuleScorer(weighted(gold=5), 0)
    assert judge.rule_scores("Can you help?", GOOD).by_rule.keys().isdisjoint({"gold", "overlap"})
    assert judge.rule_scores(QUESTION, GOOD, gold=GOOD.text).by_rule["gold"] == 1.0


def test_the_fingerprint_changes_with_every_setting():
    changed = [
        dataclasses.replace(RULES, words=(4, 21)),
        weighted(required=2),
        dataclasses.replace(RULES, forbidden_phrases=("no",)),
    ]
    prints = {RuleScorer(rules, 0.02).fingerprint for rules in (RULES, *changed)} | {RuleScorer(RULES, 0).fingerprint}
    assert len(prints) == 5
    assert RuleScorer(RULES, 0.02).fingerprint == RuleScorer(RULES, 0.02).fingerprint


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"required_groups": ()}, "winrate.rules.required_groups"),
        ({"required_groups": ((),)}, "winrate.rules.required_groups"),
        ({"forbidden_phrases": ()}, "winrate.rules.forbidden_phrases"),
        ({"forbidden_phrases": ("?!",)}, "at least one word"),
        ({"words": (4, 2)}, "winrate.rules.words"),
        ({"words": (0, 2)}, "winrate.rules.words"),
        ({"words": (4,)}, "winrate.rules.words"),
        ({"weights": {"gold": -1}}, "winrate.rules.weights.gold"),
        ({"weights": {"golden": 1}}, "winrate.rules.weights` is 'golden' — choose among: required, forbidden"),
    ],
)
def test_wrong_rules_are_refused_by_name(change, told):
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(RULES, **change)


def test_rules_without_any_weight_are_refused():
    for weights in ({}, dict.fromkeys(RULES.weights, 0)):
        with pytest.raises(ConfigError, match="at least one rule"):
            dataclasses.replace(RULES, weights=weights)
