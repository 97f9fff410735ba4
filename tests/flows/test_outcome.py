"""From the output of DVC and the receipt to an outcome, a row of the table and a Prefect state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.dvc_project.graph import Staleness
from flows.dvc_project.outcome import Outcome, Transcript, failed, key_metrics, succeeded, summary, table
from flows.pipeline import as_state, is_worth_a_retry

FAILED_LINE = "ERROR: failed to reproduce 'train': failed to run: python -m tasks.train, exited with {code}"


def transcript(*lines: str) -> Transcript:
    output = Transcript("train")
    for line in lines:
        output.feed(line)
    return output


@pytest.mark.parametrize(
    ("code", "kind", "is_retried"),
    [
        (75, "preempted", True),
        (130, "interrupted", False),
        (137, "killed", False),
        (-9, "killed", False),
        (1, "bug", False),
    ],
)
def test_without_a_receipt_the_stages_exit_code_tells_the_kind(code: int, kind: str, is_retried: bool) -> None:
    outcome = failed(transcript(FAILED_LINE.format(code=code)), "train", {}, 255, 1.0)
    assert (outcome.kind, outcome.is_worth_a_retry) == (kind, is_retried)


@pytest.mark.parametrize(
    ("kind", "is_retried"),
    [("network", True), ("preempted", True), ("busy", True)]
    + [(kind, False) for kind in ("config", "data", "artifact", "storage", "registry", "gate", "bug")],
)
def test_only_a_network_fault_and_a_preemption_are_retried(kind: str, is_retried: bool) -> None:
    receipt = {"status": kind, "error": "SomeError: what\n and where"}
    outcome = failed(transcript(FAILED_LINE.format(code=1)), "train", receipt, 255, 1.0)
    assert (outcome.kind, outcome.why) == (kind, "SomeError: what and where")
    assert is_worth_a_retry(None, None, as_state(outcome)) is is_retried


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("ERROR: failed to pull data: Connection refused", "network"),
        ("ERROR: unexpected error - Connect timeout on endpoint URL: x", "network"),
        ("ERROR: failed to reproduce: 504 Gateway", "network"),
        ("ERROR: './dvc.yaml' is invalid.", "dvc"),
        ("nothing", "dvc"),
    ],
)
def test_without_a_stages_exit_code_dvcs_own_error_tells_the_kind(words: str, kind: str) -> None:
    assert failed(transcript(words), "train", {}, 255, 1.0).kind == kind


def test_messages_about_another_stage_are_ignored() -> None:
    output = transcript("Stage 'train_more' didn't change, skipping", "  Running stage 'train':")
    assert output.messages == set()


def test_the_key_figures_are_read_and_missing_ones_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "train"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"before": {"accuracy": 0.5}, "after": {"accuracy": 0.9}}))
    assert key_metrics(tmp_path, "train") == {"before.accuracy": 0.5, "after.accuracy": 0.9}
    assert key_metrics(tmp_path, "winrate") == {}
    (folder / "metrics.json").write_text("torn {")
    assert key_metrics(tmp_path, "train") == {}


def test_the_table_has_a_row_a_stage_and_the_summary_counts_them() -> None:
    outcomes = [
        Outcome("base", "unchanged", "nothing", 1.04),
        Outcome("train", "failed", "DataError: x", 2.0, "data", {"after.accuracy": 0.91234, "steps": 10}),
        Outcome("report", "skipped", "train failed"),
    ]
    rows = table(outcomes)
    assert [row["status"] for row in rows] == ["unchanged", "failed (data)", "skipped"]
    assert rows[1]["key metrics"] == "after.accuracy 0.912, steps 10"
    assert rows[0]["seconds"] == 1.0
    assert summary(outcomes) == "1 unchanged, 1 failed, 1 skipped"


@pytest.mark.parametrize(
    ("messages", "staleness", "status", "name"),
    [
        ({"unchanged"}, Staleness("", True), "unchanged", "Cached"),
        ({"restored"}, Staleness("a: 1 → 2", True), "restored", "Cached"),
        ({"fetched"}, Staleness("out is missing", True), "restored", "Cached"),
        ({"fetched"}, Staleness("out is missing", False), "pulled", "Cached"),
        ({"fetched", "ran"}, Staleness("out is missing", False), "ran", "Completed"),
        ({"ran"}, Staleness("a: 1 → 2", True), "ran", "Completed"),
    ],
)
def test_the_state_is_named_cached_unless_the_stage_ran(
    tmp_path: Path, messages: set[str], staleness: Staleness, status: str, name: str
) -> None:
    outcome = succeeded("train", messages, staleness, 1.0, tmp_path)
    state = as_state(outcome)
    assert (outcome.status, state.name, state.is_completed()) == (status, name, True)
    assert state.message == f"{status}: {outcome.why}"


def test_a_failed_stages_state_tells_kind_and_error() -> None:
    state = as_state(Outcome("train", "failed", "DataError: no rows", kind="data"))
    assert (state.is_failed(), state.message) == (True, "data: DataError: no rows")
