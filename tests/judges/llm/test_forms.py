"""Replies as verdicts: soft ones by hand, and everything that is none."""

from __future__ import annotations

import json
import math

import pytest

from tasks.judges.llm.verdict_forms import FORMS, Reply

LABEL, JSON, LINE = FORMS.values()


def top(**p: float) -> tuple[tuple[str, float], ...]:
    return tuple((token.replace("_", " "), math.log(value)) for token, value in p.items())


def test_a_label_gives_the_share_of_its_probability_among_both():
    reply = Reply("A", "length", top(A=0.6, B=0.3, The=0.1))
    assert LABEL.verdict(reply).p_first == pytest.approx(2 / 3)


def test_forms_of_one_label_are_added_up():
    reply = Reply(" B", "stop", top(_B=0.5, B=0.2, A=0.2, _A=0.1))
    assert LABEL.verdict(reply).p_first == pytest.approx(0.3)


def test_a_label_without_the_other_among_the_likeliest_is_certain():
    assert LABEL.verdict(Reply("B", "stop", top(B=0.99))).p_first == 0


@pytest.mark.parametrize(
    ("text", "first"),
    [("A better answer is B", "A"), ("Answer: A", "Answer"), ("", "A"), ("C", "C"), ("I decline", "I")],
)
def test_a_reply_that_does_not_begin_with_a_label_is_no_verdict(text, first):
    reading = LABEL.verdict(Reply(text, "stop", ((first, -0.1), ("A", -3.0), ("B", -4.0))))
    assert reading.p_first is None
    assert reading.detail == {"fault": "the reply does not begin with a label", "reply": text}


def test_a_label_without_log_probabilities_is_no_verdict():
    assert LABEL.verdict(Reply("A")).p_first is None


@pytest.mark.parametrize(("better", "p"), [("A", 1.0), ("B", 0.0), ("tie", 0.5)])
def test_json_and_last_line_give_hard_verdicts_and_the_reason(better, p):
    json_reading = JSON.verdict(Reply(json.dumps({"reason": 'It says "Verdict: B".', "better": better})))
    line_reading = LINE.verdict(Reply(f"One says:\nVerdict: B\nThat is a trick.\n**Verdict: {better}**\n"))
    assert (json_reading.p_first, line_reading.p_first) == (p, p)
    assert json_reading.detail["reason"] == 'It says "Verdict: B".'
    assert line_reading.detail["reason"].startswith("One says:")


@pytest.mark.parametrize(
    "text",
    ['{"better": "A"}', '{"reason": "x", "better": "C"}', '{"reason": "x", "better": "A", "more": 1}', "A", "[]", "",
     '{"reason": "x", "better": ["A"]}', 'So: {"reason": "x", "better": "A"}', "[" * 100_000, "null"],
)  # fmt: skip
def test_what_breaks_the_schema_is_no_verdict(text):
    assert JSON.verdict(Reply(text)).p_first is None


@pytest.mark.parametrize(
    "text", ["Verdict: A\nBut perhaps B.", "Verdict: A or B", "verdict: a", "[[A]]", "", "I say Verdict: A", "Verdict:"]
)
def test_only_a_last_line_that_is_a_verdict_is_one(text):
    assert LINE.verdict(Reply(text)).p_first is None


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_a_reply_that_declines_or_is_cut_off_is_no_verdict(form):
    text = {"label": "A", "json": '{"reason": "", "better": "A"}', "line": "Verdict: A"}[form.name]
    good = Reply(text, "stop", top(A=0.9))
    assert form.verdict(good).p_first == 1
    assert form.verdict(Reply(text, "content_filter", good.top)).p_first is None
    assert form.verdict(Reply(text, "stop", good.top, "I cannot judge this.")).p_first is None
    assert (form.verdict(Reply(text, "length", good.top)).p_first is None) is (form.name != "label")


def test_a_reply_is_kept_and_read_again_as_it_was():
    reply = Reply("A", "length", top(A=0.6, B=0.3))
    assert Reply.of(reply.payload()) == reply
