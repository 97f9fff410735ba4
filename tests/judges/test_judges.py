"""Rules, control judges and games: position is seen, missing stays missing, empty answers lose."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest

from tasks.core.errors import ConfigError
from tasks.core.params import build
from tasks.estimation.estimates import consistency, first_position_share, per_prompt
from tasks.judges.choice import build_judge
from tasks.judges.controls import LengthJudge, RandomJudge
from tasks.judges.games import Comparison, pair_up, play
from tasks.judges.protocol import Answer, Item, Opinion
from tasks.judges.rules import RuleJudge, RulesConfig, ends_cleanly, length_score, overlap_share, word_f1
from tasks.judges.texts import distinct_ngram_share, words

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
GOOD = Answer("I am so sorry about the crack in your radio. Leave it to me!")
CURT = Answer("That is not our problem.")


class FirstWins:
    """A judge that always prefers what it is shown first."""

    fingerprint = "first wins"

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        return [Opinion("ok", 1.0) for _ in items]


class FailsOn:
    """A judge that answers `error` whenever a word is shown first, and else prefers the first."""

    fingerprint = "fails"

    def __init__(self, word: str) -> None:
        self.word = word

    def judge(self, items: Sequence[Item]) -> list[Opinion]:
        return [Opinion("error", None) if self.word in item.first.text else Opinion("ok", 1.0) for item in items]


def _pairs(count: int) -> list[Comparison]:
    return [Comparison(f"p{i}", 0, QUESTION, Answer(f"answer {i} a"), Answer(f"answer {i} b")) for i in range(count)]


def test_a_judge_that_favours_a_position_shows_and_wins_nothing():
    games = pair_up(play(FirstWins(), _pairs(10)))
    first, second = [game.shown_first for game in games], [game.shown_second for game in games]
    assert first_position_share(first, second) == 1.0
    assert consistency(first, second) == 0.0
    assert set(per_prompt([game.prompt_id for game in games], first, second).values()) == {0.5}


def test_the_rule_judge_does_not_care_for_position():
    games = pair_up(play(RuleJudge(RULES, 0.02), [Comparison("p", 0, QUESTION, GOOD, CURT)]))
    assert (games[0].shown_first, games[0].shown_second) == (1.0, 1.0)


def test_both_orders_are_really_shown():
    verdicts = play(LengthJudge(), [Comparison("p", 0, QUESTION, Answer("a longer answer"), Answer("short"))])
    assert [verdict.order for verdict in verdicts] == ["AB", "BA"]
    assert all(verdict.p_candidate == 1.0 for verdict in verdicts)
    assert all(verdict.detail["candidate"] == {"words": 3} for verdict in verdicts)


def test_a_failed_verdict_is_missing_and_never_a_tie_win_or_loss():
    pair = Comparison("p", 0, QUESTION, Answer("broken answer"), Answer("other"))
    verdicts = play(FailsOn("broken"), [pair])
    assert [(verdict.status, verdict.p_candidate) for verdict in verdicts] == [("error", None), ("ok", 0.0)]
    game = pair_up(verdicts)[0]
    assert math.isnan(per_prompt([game.prompt_id], [game.shown_first], [game.shown_second])["p"])


def test_identical_answers_are_a_tie_that_no_judge_is_asked_about():
    verdicts = play(FailsOn(""), [Comparison("p", 0, QUESTION, GOOD, GOOD)])
    assert {(verdict.status, verdict.p_candidate) for verdict in verdicts} == {("skipped_identical", 0.5)}
    assert not pair_up(verdicts)[0].is_judged


def test_a_cut_answer_is_not_identical_to_a_finished_one():
    cut = dataclasses.replace(GOOD, finish="length")
    assert not Comparison("p", 0, QUESTION, GOOD, cut).is_identical


def test_the_random_judge_comes_out_at_one_half():
    games = pair_up(play(RandomJudge(0), _pairs(600)))
    first, second = [game.shown_first for game in games], [game.shown_second for game in games]
    assert sum(first + second) / 1200 == pytest.approx(0.5, abs=0.05)
    assert consistency(first, second) == pytest.approx(0.5, abs=0.07)
    assert play(RandomJudge(0), _pairs(5)) == play(RandomJudge(0), _pairs(5))
    assert play(RandomJudge(1), _pairs(20)) != play(RandomJudge(0), _pairs(20))


def test_the_rules_prefer_the_warm_topical_answer_for_reasons_that_can_be_read():
    judge = RuleJudge(RULES, 0.02)
    good, curt = judge.score(QUESTION, GOOD), judge.score(QUESTION, CURT)
    assert good.total == 1.0
    assert curt.by_rule["required"] == curt.by_rule["forbidden"] == curt.by_rule["overlap"] == 0
    assert curt.total == pytest.approx(0.5)  # length, repetition and ending are fine: 3 of 6


@pytest.mark.parametrize("text", ["", " \n", "…", "."])
def test_an_answer_that_says_nothing_scores_nothing(text):
    assert RuleJudge(RULES, 0.02).score(QUESTION, Answer(text)).total == 0


def test_scores_within_the_margin_are_a_tie():
    far, near = RuleJudge(RULES, 0.02), RuleJudge(RULES, 0.6)
    item = Item("p", QUESTION, GOOD, CURT)
    assert (far.judge([item])[0].status, near.judge([item])[0].status) == ("ok", "tie")


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
    judge = RuleJudge(dataclasses.replace(RULES, forbidden_phrases=("so what",)), 0)
    assert judge.score(QUESTION, Answer("It is so whatever now.")).by_rule["forbidden"] == 1.0
    assert judge.score(QUESTION, Answer("And? So,  WHAT of it.")).by_rule["forbidden"] == 0.0


def test_a_rule_without_a_say_is_left_out_for_both():
    judge = RuleJudge(weighted(gold=5), 0)
    assert judge.score("Can you help?", GOOD).by_rule.keys().isdisjoint({"gold", "overlap"})
    assert judge.score(QUESTION, GOOD, gold=GOOD.text).by_rule["gold"] == 1.0


def test_the_fingerprint_changes_with_every_setting():
    changed = [
        dataclasses.replace(RULES, words=(4, 21)),
        weighted(required=2),
        dataclasses.replace(RULES, forbidden_phrases=("no",)),
    ]
    prints = {RuleJudge(rules, 0.02).fingerprint for rules in (RULES, *changed)} | {RuleJudge(RULES, 0).fingerprint}
    assert len(prints) == 5
    assert RuleJudge(RULES, 0.02).fingerprint == RuleJudge(RULES, 0.02).fingerprint


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


def test_a_judge_that_does_not_exist_is_refused_by_name():
    from tasks.winrate import WinrateConfig

    with pytest.raises(ConfigError, match=r"`winrate.judge` is 'llm' — choose one of: rules, length, random"):
        build(WinrateConfig, {"judge": "llm", "tie_margin": 0,
                              "rules": dataclasses.asdict(RULES), "guards": {}}, "winrate")  # fmt: skip


@pytest.mark.parametrize("kind", ["rules", "length", "random"])
def test_every_judge_gives_one_opinion_an_item(kind):
    judge = build_judge(kind, RULES, 0.02, 0)
    opinions = judge.judge([Item("p", QUESTION, GOOD, CURT), Item("q", QUESTION, CURT, GOOD)])
    assert len(opinions) == 2
    assert len(judge.fingerprint) == 64
