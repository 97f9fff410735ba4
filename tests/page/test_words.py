from __future__ import annotations

import dataclasses

import pytest

from tasks.core.base_model import BaseModel
from tasks.page import words
from tasks.page.answer_facts import Kl, VerdictFacts
from tasks.page.facts import EvidenceFacts, Measures
from tasks.page.measured import Rate
from tasks.page.readers.read_evidence import read_evidence
from tests.page.samples import PARAMS, make_folders

GAP = "\u00a0"
BASE = BaseModel("local", "/models/stories", None, "ab" * 32, "/models/stories")


@pytest.fixture
def evidence(tmp_path) -> EvidenceFacts:
    return read_evidence(make_folders(tmp_path, prompts=40, pairs=32).winrate, PARAMS["winrate"]["judge"])


def _with_rate(evidence: EvidenceFacts, value: float, low: float, high: float) -> EvidenceFacts:
    return dataclasses.replace(evidence, rate=Rate(value, low, high))


def test_a_share_is_shown_as_a_percentage_that_does_not_break_from_its_sign():
    assert words.percent(0.9143) == f"91.4{GAP}%"
    assert words.percent(None) == "–"


def test_negative_numbers_carry_a_minus_and_a_rounded_zero_carries_none():
    assert words.number(-3.25) == "\u22123.25"
    assert words.number(-0.001) == "0.00"
    assert words.number(12345.678, 1) == "12\u202f345.7"


def test_an_interval_above_one_half_is_a_win_below_a_loss_and_across_undecided(evidence):
    won, lost, open_ = (_with_rate(evidence, *at) for at in ((0.9, 0.8, 0.95), (0.2, 0.1, 0.3), (0.6, 0.45, 0.7)))
    assert words.verdict(won).startswith(f"The adapter beats its base: a win rate of 90.0{GAP}% on 40{GAP}held-out")
    assert words.verdict(lost).startswith(f"The adapter loses to its base: a win rate of 20.0{GAP}%")
    assert words.verdict(open_).startswith(f"Undecided: a win rate of 60.0{GAP}%")


def test_an_interval_that_touches_one_half_is_not_called_a_win(evidence):
    assert words.verdict(_with_rate(evidence, 0.6, 0.5, 0.7)).startswith("Undecided")
    assert words.verdict(_with_rate(evidence, 0.4, 0.3, 0.5)).startswith("Undecided")


def test_the_level_of_the_interval_is_the_one_that_was_asked_for(evidence):
    assert f"95{GAP}% interval" in words.verdict(evidence)
    assert f"(90{GAP}% interval" in words.verdict(dataclasses.replace(evidence, confidence=0.9))


def test_a_single_prompt_is_written_in_the_singular(evidence):
    one = dataclasses.replace(_with_rate(evidence, 1.0, 0.2, 1.0), prompts=1)
    assert f"1{GAP}held-out prompt " in words.verdict(one)


def test_a_failed_guard_comes_before_every_rate(evidence):
    failed = [dataclasses.replace(guard, is_passed=False) for guard in evidence.guards]
    one = dataclasses.replace(_with_rate(evidence, 0.9, 0.8, 0.95), guards=(failed[0], *evidence.guards[1:]))
    assert words.verdict(one).startswith(
        f"Not to be believed: the guard adapter_applied failed. Measured was a win rate of 90.0{GAP}% on"
    )
    assert "beats" not in words.verdict(one)
    three = words.verdict(dataclasses.replace(one, guards=tuple(failed)))
    assert "the guards adapter_applied, distinct_ratio and length_ratio failed" in three


def test_faults_of_the_judge_a_leaning_control_and_lost_verdicts_are_said_beside_the_verdict(evidence):
    assert words.caveats(BASE, evidence) == []
    papers = dataclasses.replace(evidence.papers, faults=("it is blind", "it is deaf"))
    spoiled = dataclasses.replace(evidence, papers=papers, control=Rate(0.7, 0.6, 0.8), coverage=0.9)
    said = " ".join(words.caveats(BASE, spoiled))
    assert "The judge does not qualify: it is blind. The judge does not qualify: it is deaf." in said
    assert "does not score one half against itself" in said
    assert f"Only 90.0{GAP}% of the prompts" in said


def test_the_judge_is_named_with_its_standing_and_where_it_comes_from(evidence):
    papers = evidence.papers
    assert words.judge_name(papers) == "openai (small-judge)"
    assert words.standing(papers).replace(GAP, " ") == (
        "The judge qualifies: it agrees with the labels on 80.0 % (75.0–85.0 %) of 180 decided "
        "pairs; the longer answer does on 50.0 % (45.0–55.0 %)."
    )
    assert "does not qualify" in words.standing(dataclasses.replace(papers, faults=("x",)))
    assert "from the labels that the adapter learned from" in words.origin(dataclasses.replace(papers, kind="own"))
    assert "ignores quality" in words.origin(dataclasses.replace(papers, kind="length"))
    assert words.origin(papers) == ""


@pytest.mark.parametrize(
    ("choice", "model"),
    [
        ({"kind": "openai", "model": "small-judge"}, "small-judge"),
        ({"kind": "python", "name": "my_judges:CalmJudge"}, "my_judges:CalmJudge"),
        ({"kind": "reward_model", "source": "org/reward", "revision": "a" * 40}, "org/reward"),
        ({"kind": "reward_model", "source": "/models/reward", "revision": None}, "reward"),
        ({"kind": "panel", "members": [{"kind": "rules"}, {"kind": "openai", "model": "m"}]}, "m"),
        ({"kind": "rules"}, ""),
        ("rules", ""),
        (None, ""),
    ],
)
def test_the_models_and_classes_that_a_choice_names_are_told_without_paths(tmp_path, choice, model):
    assert read_evidence(make_folders(tmp_path, prompts=8, pairs=8).winrate, choice).papers.model == model


def test_a_judge_that_decided_nothing_has_dashes_in_place_of_numbers(evidence):
    labels = dataclasses.replace(evidence.papers.labels, agreement=None, kappa=None, first_position_share=None)
    assert (words.share(labels.agreement), words.kappa(labels.kappa)) == ("–", "–")
    assert words.position(labels) == "none: each answer is scored alone"


@pytest.mark.parametrize(
    ("status", "credit", "said"),
    [
        ("ok", 1.0, "the adapter's is better"),
        ("ok", 0.0, "the adapter's is worse"),
        ("ok", 0.73, "the adapter's is better, with a probability of 0.73"),
        ("ok", 0.27, "the adapter's is worse, with a probability of 0.73"),
        ("tie", 0.5, "a tie"),
        ("invalid", None, "no usable verdict"),
        ("error", None, "the judge gave no verdict"),
        ("skipped_identical", 0.5, "both answers are the same, so no judge was asked: a tie"),
    ],
)
def test_a_verdict_is_said_in_words(status, credit, said):
    assert words.finding(VerdictFacts("reference", "AB", status, credit, {}, {}, {})) == said


def test_a_distance_from_the_reference_is_not_called_a_divergence():
    text = words.distance({"chosen": 2.24, "rejected": -15.7})
    assert "+2.24 nats on the chosen held-out answers and \u221215.70 on the rejected ones" in text
    assert "not the KL divergence" in text


def test_the_divergence_to_the_base_is_told_with_its_standard_error_where_it_was_measured():
    assert words.kl(Kl(12.34, 0.567, 0.6)) == "12.34 ± 0.57"
    assert words.kl(Kl(12.34, None, 0.6)) == "12.34"
    assert words.kl(None) == "not measured: a server answered"
    assert words.divergence(Kl(12.34, 0.567, 0.6)).startswith("KL to the base, nats per answer: 12.34 ± 0.57 (standard")


def test_a_demo_is_called_a_demo(evidence):
    demo = dataclasses.replace(BASE, kind="demo")
    assert any("built-in demo" in line for line in words.caveats(demo, evidence))


def test_falling_likelihood_of_chosen_answers_is_called_what_it_may_be():
    before = Measures(0.69, 0.5, 0.0, -30.0, -30.0)
    assert "likelihood collapse" in words.likelihood(before, Measures(0.1, 1.0, 5.0, -80.0, -130.0))
    assert "became more likely" in words.likelihood(before, Measures(0.1, 1.0, 5.0, -20.0, -60.0))


def test_control_characters_surrogates_and_reading_direction_tricks_become_visible():
    assert words.visible("a\x00b\x1b[2Jc\r\nd\te") == "a\u2400b\u241b[2Jc\nd\te"
    assert words.visible("x\ud800y\u202ez") == "x\ufffdy\ufffdz"
    words.visible("\ud800").encode()  # or the page could not be written


def test_long_text_is_cut_and_the_rest_counted():
    assert words.visible("abcdef", 4) == f"abcd … (2{GAP}characters more)"
    assert words.visible("abcd", 4) == "abcd"


def test_passes_read_well_whole_and_in_part():
    assert [words.passes(n) for n in (1, 2, 0.5)] == [f"1{GAP}pass", f"2{GAP}passes", f"0.5{GAP}passes"]


def test_a_change_carries_its_sign_and_a_rounded_zero_carries_none():
    assert [words.signed(value, 1) for value in (0.26, -0.26, 0.04, -0.04)] == ["+0.3", "\u22120.3", "0.0", "0.0"]


def test_passed_guards_are_counted_out_of_all(evidence):
    failed = dataclasses.replace(evidence.guards[0], is_passed=False)
    assert words.passed_guards(evidence) == "3 of 3"
    assert words.passed_guards(dataclasses.replace(evidence, guards=(failed, *evidence.guards[1:]))) == "2 of 3"
