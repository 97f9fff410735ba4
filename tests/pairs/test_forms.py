"""Forms beyond chosen and rejected: what a vote means is known or refused, and every row is accounted for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest
from tasks.core.errors import ConfigError, DataError
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.pairs.forms.choose import FormSettings
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.sources import rows_source
from tasks.pairs.record.pair import Columns, Pair
from tasks.pairs.record.rejection import NO_PREFERENCE, REASONS, Rejection
from tests.pairs.samples import write_rows


def read(*sources: Iterable[dict[str, Any]], ignored: tuple[str, ...] = (), **section: Any) -> tuple[Intake, list[Any]]:
    """What rows at hand give, with these keys of `ingest`."""
    reading = build(IngestConfig, {"sources": ["-"], "ignore": list(ignored), **section}, "ingest").reading
    intake = Intake()
    return intake, list(intake.read([rows_source(rows, f"source{i}", reading) for i, rows in enumerate(sources)]))


def replies(taken: Iterable[Any]) -> list[tuple[str, str]]:
    return [(pair.chosen, pair.rejected) for pair in taken if isinstance(pair, Pair)]


def reasons(taken: Iterable[Any]) -> list[str]:
    return [rejection.reason for rejection in taken if isinstance(rejection, Rejection)]


def votes(*values: Any, names: tuple[str, str, str] = ("response_a", "response_b", "winner")) -> list[dict[str, Any]]:
    return [{"prompt": f"Q{i}?", names[0]: f"one {i}", names[1]: f"two {i}", names[2]: v} for i, v in enumerate(values)]


def test_words_that_mean_an_answer_are_read_in_a_schema_that_no_table_names() -> None:
    intake, taken = read(votes("model_a", "B", "tie", "response_b", "Tie (bothbad)", None))
    assert replies(taken) == [("one 0", "two 0"), ("two 1", "one 1"), ("two 3", "one 3")]
    assert reasons(taken) == ["tie", "both_bad", "no_vote"]
    assert intake.forms == {"source0": "votes: `winner` says which of `response_a` and `response_b` is chosen"}
    intake.check_share(0.0)  # rows without a preference are not faulty


def test_a_number_is_read_where_both_numbers_are_those_of_the_columns_names() -> None:
    _, taken = read(votes(1, 2, "2", names=("answer_1", "answer_2", "label")))
    assert replies(taken) == [("one 0", "two 0"), ("two 1", "one 1"), ("two 2", "one 2")]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ((0, 1, 1), ("answer_1", "answer_2", "label")),  # 1 could be the first answer, or the second one
        ((0, 1, 1), ("answer_a", "answer_b", "label")),
        ((1, 1, 1), ("answer_1", "answer_2", "label")),
        (("good", "bad", "bad"), ("answer_a", "answer_b", "label")),
    ],
)
def test_a_vote_that_could_mean_either_answer_is_refused_until_params_name_it(values: Any, names: Any) -> None:
    with pytest.raises(DataError, match=r"no column `chosen`.*first, second, winner"):
        read(votes(*values, names=names))
    named = dict(zip(("first", "second", "winner"), names, strict=True))
    _, taken = read(votes(*values, names=names), columns=named, votes={"first": [values[0]], "second": ["bad", 9]})
    assert replies(taken)[0] == ("one 0", "two 0")


def test_a_value_that_nobody_named_is_rejected_with_the_value_and_the_advice_mends_it() -> None:
    columns = {"first": "response_a", "second": "response_b", "winner": "winner"}
    intake, taken = read(votes("a", "b", "ours"), columns=columns)
    assert reasons(taken) == ["unknown_vote"]
    with pytest.raises(DataError, match=r"unknown_vote 1; .*'ours'.*`ingest.votes`"):
        intake.check_share(0.1)
    _, taken = read(votes("a", "b", "ours"), columns=columns, votes={"second": ["ours"]})
    assert replies(taken) == [("one 0", "two 0"), ("two 1", "one 1"), ("two 2", "one 2")]


def test_true_is_not_the_vote_1() -> None:
    rows = votes(1, 0, True, names=("human_ref_A", "human_ref_B", "labels"))
    _, taken = read([{**row, "history": row["prompt"]} for row in rows])
    assert (replies(taken), reasons(taken)) == ([("one 0", "two 0"), ("two 1", "one 1")], ["unknown_vote"])


def test_a_number_without_end_is_a_vote_that_nobody_named() -> None:
    columns = {"first": "response_a", "second": "response_b", "winner": "winner"}
    _, taken = read(votes("a", "b", 10**400, float("nan")), columns=columns)
    assert reasons(taken) == ["unknown_vote", "no_vote"]


def test_one_value_with_two_meanings_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`ingest\.votes` gives '1' two meanings"):
        build(IngestConfig, {"sources": ["-"], "votes": {"first": [1], "second": ["1"]}}, "ingest")


def test_a_form_that_is_unknown_is_refused_with_the_names() -> None:
    with pytest.raises(ConfigError, match=r"`ingest.form` is 'helpster3' .* helpsteer3"):
        FormSettings("helpster3")


def helpsteer(*strengths: Any) -> list[dict[str, Any]]:
    names = {"response1": "one", "response2": "two"}
    return [
        {"context": [{"role": "user", "content": f"Q{i}?"}], **names, "overall_preference": s}
        for i, s in enumerate(strengths)
    ]


def test_the_strength_of_a_signed_vote_is_the_margin_and_a_least_gap_leaves_weak_ones_out() -> None:
    _, taken = read(helpsteer(-3, 1, 0, 2), min_gap=2)
    assert [(pair.chosen, pair.margin) for pair in taken if isinstance(pair, Pair)] == [("one", 3.0), ("two", 2.0)]
    assert reasons(taken) == ["gap_too_small", "tie"]


def ranked(*scores: Any) -> list[dict[str, Any]]:
    return [{"prompt": "Q?", "responses": [{"text": f"r{i}", "score": score} for i, score in enumerate(scores)]}]


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("best_worst", [("r1", "r2", 8.0)]),
        ("all_pairs", [("r1", "r0", 4.0), ("r0", "r2", 4.0), ("r1", "r2", 8.0)]),
    ],
)
def test_the_rule_says_which_answers_of_a_list_make_pairs(pairing: str, expected: list[Any]) -> None:
    _, taken = read(ranked(5, 9, 1, None), pairing=pairing)
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in taken] == expected


def test_a_random_pair_is_the_same_each_time() -> None:
    first, second = (replies(read(ranked(5, 9, 1), pairing="random")[1]) for _ in range(2))
    assert first == second
    assert len(first) == 1


@pytest.mark.parametrize(("scores", "reason"), [((4, 4), "tie"), ((4,), "unpaired"), ((4, "x"), "bad_score")])
def test_a_list_without_two_scores_that_differ_is_no_pair(scores: Any, reason: str) -> None:
    _, taken = read(ranked(5, 1) + ranked(*scores))
    assert reasons(taken) == [reason]
    assert reason in REASONS


def ultrafeedback(*systems: str) -> list[dict[str, Any]]:
    completions = [
        {"response": f"r{i}", "overall_score": i, "custom_system_prompt": system} for i, system in enumerate(systems)
    ]
    return [{"instruction": "Q?", "completions": completions}]


def test_two_answers_under_different_system_prompts_are_a_pair_only_where_the_system_is_waived() -> None:
    _, taken = read(ultrafeedback("Be kind.", "Be brief."))
    assert reasons(taken) == ["prompts_differ"]
    assert "`ingest.ignore: [custom_system_prompt]`" in taken[0].detail
    _, taken = read(ultrafeedback("Be kind.", "Be brief."), ignored=("custom_system_prompt",))
    assert replies(taken) == [("r1", "r0")]


def test_a_key_beside_the_messages_that_may_shape_the_prompt_is_refused_by_name() -> None:
    row = {"preferred_output": "a", "non_preferred_output": "b"}
    _, taken = read([{**row, "input": {"messages": [{"role": "user", "content": "Q?"}], "documents": ["d"]}}])
    assert (reasons(taken), "`documents`" in taken[0].detail) == (["unread_key"], True)


def thumbs(*labels: tuple[str, bool]) -> list[dict[str, Any]]:
    return [{"prompt": ask, "completion": f"{ask} {i}", "label": label} for i, (ask, label) in enumerate(labels)]


def test_opposite_thumbs_on_one_prompt_are_pairs_and_each_counts_once_unless_all_are_asked_for() -> None:
    rows = thumbs(("p", True), ("q", True), ("p", False), ("p", True))
    _, taken = read(rows)
    assert (replies(taken), reasons(taken)) == ([("p 0", "p 2")], ["unpaired", "unpaired"])
    _, taken = read(rows, pairing="all_pairs")
    assert (replies(taken), reasons(taken)) == ([("p 0", "p 2"), ("p 3", "p 2")], ["unpaired"])


def test_thumbs_under_different_system_prompts_are_no_pair() -> None:
    rows = [{**row, "system": f"S{i}"} for i, row in enumerate(thumbs(("p", True), ("p", False)))]
    assert reasons(read(rows)[1]) == ["unpaired", "unpaired"]


def test_lone_thumbs_are_counted_apart_and_kept(tmp_path: Path) -> None:
    paired = thumbs(*((f"q{i // 2}", i % 2 == 0) for i in range(40)))
    path = write_rows(tmp_path / "rows.jsonl", [*paired, {"prompt": "alone", "completion": "!", "label": True}])
    metrics = ingest.run(ingest.Folders(tmp_path / "out"), IngestConfig((str(path),), test_share=0.3))
    assert (metrics["rows_read"], metrics["outcomes"], sum(metrics["pairs"].values())) == (41, 21, 20)
    assert (metrics["left_out"]["rejected"], metrics["left_out"]["no_preference"]) == (0, 1)
    line = (tmp_path / "out/unpaired.jsonl").read_text(encoding="utf-8")
    assert json.loads(line) == {"prompt": "alone", "completion": "!", "label": True}


def test_scores_in_one_file_are_joined_to_traces_in_another() -> None:
    traces = [{"id": f"t{i}", "timestamp": "2026", "input": "Q?", "output": f"r{i}"} for i in range(3)]
    scores = [{"traceId": f"t{i}", "name": "user", "value": value} for i, value in ((0, 0), (1, 1), (9, 1))]
    _, taken = read(traces, scores)
    assert replies(taken) == [("r1", "r0")]
    assert sorted(reasons(taken)) == ["no_vote", "unpaired"]  # the third trace, and the score of no trace


def test_a_score_without_a_key_joins_no_answer_without_one() -> None:
    answers = thumbs(("Q?", True), ("Q?", False))
    scores = [{"traceId": key, "name": "user", "value": 0} for key in ("", "\ud83d", "t1")]
    _, taken = read(answers, scores)
    assert len(replies(taken)) == 1
    assert reasons(taken) == ["unpaired"] * 3


def _chat(rating: int, siblings: list[str] | None, system: str = "") -> dict[str, Any]:
    turns = {"q": {"role": "user", "content": "Q?", "parentId": None}}
    turns |= {name: {"role": "assistant", "content": name, "parentId": "q"} for name in ("m0", "m1")}
    return {
        "data": {"rating": rating, "sibling_model_ids": siblings},
        "meta": {"message_id": "m0", "arena": bool(siblings)},
        "snapshot": {"chat": {"chat": {"history": {"messages": turns}, "params": {"system": system}}}},
    }


@pytest.mark.parametrize(("rating", "expected"), [(1, ("m0", "m1")), (-1, ("m1", "m0"))])
def test_a_rated_answer_and_its_arena_sibling_are_a_pair_behind_the_chats_system_prompt(
    rating: int, expected: tuple[str, str]
) -> None:
    _, taken = read([_chat(rating, ["b"], "Be kind.")])
    assert replies(taken) == [expected]
    assert [(turn.role, turn.content) for turn in taken[0].prompt] == [("system", "Be kind."), ("user", "Q?")]


def test_rows_of_which_none_holds_a_preference_are_refused_with_the_counts() -> None:
    intake, _ = read(votes("tie", "tie"), columns={"first": "response_a", "second": "response_b", "winner": "winner"})
    with pytest.raises(DataError, match=r"none of 2 rows holds a preference: tie 2; the first is source0:1"):
        intake.check_share(0.1)


def test_a_row_that_lacks_a_column_of_its_form_is_rejected_with_the_reason() -> None:
    _, taken = read([*helpsteer(-1, 1), {"context": [{"role": "user", "content": "Q?"}], "response1": "one"}])
    assert reasons(taken) == ["missing_column"]


def test_the_users_own_names_of_columns_hold_beside_a_form() -> None:
    rows = [{**row, "group": "g", "worth": 2} for row in votes("a", "b")]
    _, taken = read(rows, columns={"slice": "group", "weight": "worth"})
    assert [(pair.slice, pair.weight) for pair in taken] == [("g", 2.0), ("g", 2.0)]
    assert Columns().winner is None


def test_reasons_without_a_preference_are_reasons() -> None:
    assert set(REASONS) >= NO_PREFERENCE


KETTLES = [(f"How is kettle {i}?", f"It boils {i} times.", f"No idea, {i}.") for i in range(12)]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def texts(taken: Iterable[Any]) -> list[tuple[str, str, str]]:
    """Return each pair's question and replies."""
    pairs = [pair for pair in taken if isinstance(pair, Pair)]
    asked = [pair.prompt if isinstance(pair.prompt, str) else pair.prompt[-1].content for pair in pairs]
    return [(ask, pair.chosen, pair.rejected) for ask, pair in zip(asked, pairs, strict=True)]


@pytest.mark.parametrize("columns", [{}, {"prompt": "messages"}])
@pytest.mark.parametrize("reply", ["rejected", "rejected_response"])
def test_a_conversation_beside_another_reply_is_a_pair(columns: dict[str, str], reply: str) -> None:
    rows = [{"messages": [said("user", ask), said("assistant", good)], reply: bad} for ask, good, bad in KETTLES]
    _, taken = read(rows, columns=columns)
    assert texts(taken) == KETTLES
    assert all(len(pair.prompt) == 1 for pair in taken)


@pytest.mark.parametrize("name", ["messages", "conversation"])
def test_messages_without_a_prompt_column_are_the_prompt(name: str) -> None:
    plain = [
        {name: [said("System", "Be brief."), said("User", ask)], "chosen": good, "rejected": bad}
        for ask, good, bad in KETTLES
    ]
    turns = [
        {**row, "chosen": said("Chatbot", row["chosen"]), "rejected": [said("model", row["rejected"])]} for row in plain
    ]
    for rows in (plain, turns):
        _, taken = read(rows)
        assert texts(taken) == KETTLES
        assert {pair.prompt[0].content for pair in taken} == {"Be brief."}


def test_two_answers_with_a_score_each_are_compared_by_it() -> None:
    rows = [
        {"prompt": ask, "response_a": good if i % 2 else bad, "response_b": bad if i % 2 else good}
        | {"score_a": i % 2, "score_b": 1 - i % 2}
        for i, (ask, good, bad) in enumerate(KETTLES)
    ]
    assert texts(read(rows)[1]) == KETTLES


def test_thumbs_read_as_scores_are_refused_and_the_advice_helps() -> None:
    rows = [
        {"prompt": ask, "response": reply, "thumb": thumb}
        for ask, good, bad in KETTLES
        for reply, thumb in ((good, "thumbs_up"), (bad, "thumbs_down"))
    ]
    columns = {"text": "response", "score": "thumb"}
    _, taken = read(rows, columns=columns)
    assert "name both thumbs in `ingest.votes`, as `up` and `down`" in taken[0].detail
    _, taken = read(rows, columns=columns, votes={"up": ["thumbs_up"], "down": ["thumbs_down"]})
    assert sorted(texts(taken)) == sorted(KETTLES)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        *(
            ("preferred", "non_preferred"),
            ("preferredResponse", "nonPreferredResponse"),
            ("better_reply", "worse_reply"),
        ),
        *(("answer_chosen", "answer_rejected"), ("positive_response", "negative_response"), ("accepted", "declined")),
        *(("Preferred", "Not preferred"), ("good-answer", "bad-answer"), ("favoured_reply", "unfavoured_reply")),
    ],
)
def test_two_replies_whose_names_say_which_is_better_are_a_pair(better: str, worse: str) -> None:
    rows = [{"prompt": ask, worse: bad, better: good} for ask, good, bad in KETTLES]
    intake, taken = read(rows)
    assert texts(taken) == KETTLES
    assert intake.forms == {"source0": f"{better}/{worse}: `{better}` over `{worse}`"}


def test_names_that_say_nothing_of_replies_or_say_it_of_several_are_no_form() -> None:
    for names in (
        ("positive", "negative"),
        ("winner", "loser"),
        ("good", "bad"),
        ("preferred_text", "rejected_answer"),
    ):
        with pytest.raises(DataError, match="no column `chosen`"):
            read([dict(zip(("prompt", *names), row, strict=True)) for row in KETTLES])
    names = ("preferred_reply", "rejected_reply", "better_answer", "worse_answer")
    with pytest.raises(DataError, match="no column `chosen`"):
        read([{"prompt": ask, **dict.fromkeys(names, good)} for ask, good, _ in KETTLES])


@pytest.mark.parametrize("labels", [("preferred", "preferred"), ("preferred", None), ("preferred", "bad")])
def test_candidates_without_one_label_each_are_turned_away(labels: tuple[Any, Any]) -> None:
    def row(ask: str, *labels: Any) -> dict[str, Any]:
        candidates = [{"content": [{"text": str(i)}], "preferenceLabel": label} for i, label in enumerate(labels)]
        return {"messages": [said("user", ask), {"role": "assistant", "candidates": candidates}]}

    _, taken = read([row("A?", "preferred", "non-preferred"), row("B?", *labels)])
    assert texts(taken) == [("A?", "0", "1")]
    assert reasons(taken) == ["unknown_vote"]


def test_a_row_that_holds_columns_of_rows_says_to_write_one_row_an_object() -> None:
    columns = {name: [row[i] for row in KETTLES] for i, name in enumerate(("prompt", "chosen", "rejected"))}
    _, taken = read([columns])
    assert "are lists of texts, the columns of several rows: write one row an object" in taken[0].detail
    _, taken = read([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    assert texts(taken) == KETTLES
