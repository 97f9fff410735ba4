from __future__ import annotations

import dataclasses

import pytest

from tasks.core.base_model import BaseModel
from tasks.page import words
from tasks.page.facts import EvidenceFacts, Measures, Rate
from tasks.page.readers.read_evidence import read_evidence

GAP = "\u00a0"
BASE = BaseModel("local", "/models/stories", None, "ab" * 32, "/models/stories")


@pytest.fixture
def evidence(tmp_path) -> EvidenceFacts:
    from tests.page.samples import make_folders

    return read_evidence(make_folders(tmp_path, prompts=40, pairs=32).winrate)


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


def test_a_failed_guard_is_said_before_the_win_rate(evidence):
    failed = dataclasses.replace(evidence.guards[0], is_passed=False)
    said = words.verdict(dataclasses.replace(evidence, guards=(failed, *evidence.guards[1:])))
    assert said.startswith(f"Not to be believed, for a guard did not pass ({failed.name}): a win rate of ")
    assert "beats" not in said


def test_failed_guards_a_leaning_control_and_lost_verdicts_are_said_beside_the_verdict(evidence):
    assert words.caveats(BASE, evidence) == []
    failed = dataclasses.replace(evidence.guards[0], is_passed=False)
    spoiled = dataclasses.replace(evidence, guards=(failed,), control=Rate(0.7, 0.6, 0.8), coverage=0.9)
    said = " ".join(words.caveats(BASE, spoiled))
    assert f"1{GAP}guard did not pass (adapter applied)" in said
    assert "does not score one half against itself" in said
    assert f"Only 90.0{GAP}% of the prompts" in said


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
