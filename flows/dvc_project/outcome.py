"""What became of a stage: read from DVC's own words, the stage's receipt and its exit code.

DVC ends with 255 for every failure, so the kind of an error (which decides whether a retry can help)
comes from the receipt that the stage's door wrote, and only without one from what DVC said.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flows.dvc_project.graph import Look
from tasks.telemetry.receipts import receipt_path

Status = Literal["unchanged", "restored", "pulled", "ran", "failed", "skipped"]

RETRIED_KINDS = frozenset({"network", "preempted"})
# The figures of each stage that the table of a run shows, as paths into its metrics.json.
KEY_METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "base": ("data/base", ("parameters",)),
    "ingest": ("data/pairs", ("rows_read", "left_out.rejected", "pairs.train", "pairs.test")),
    "encode": ("data/tokens", ("train.tokens", "test.tokens", "prompts")),
    "reference": ("data/reference", ("test.ranking_accuracy",)),
    "train": ("results/train", ("before.accuracy", "after.accuracy", "after.margin")),
    "respond": ("data/responses", ("prompts", "adapter_max_abs_delta_logit")),
    "winrate": ("results/winrate", ("win_rate", "low", "high")),
    "register": ("results/register", ("serial", "promoted")),
}
_NETWORK = re.compile(
    r"timed? ?out|connection (refused|reset|aborted|error)|failed to connect|could not connect|endpoint ?url"
    r"|name resolution|temporarily unavailable|too many requests|slow ?down|service unavailable|\b50[234]\b",
    re.IGNORECASE,
)
_ERROR_LINES = 3  # DVC breaks its errors: the first line says what, the next ones of which file
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")
_EXIT_KINDS = {75: "preempted", 130: "interrupted", 137: "killed", -9: "killed", 143: "killed", -15: "killed"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one stage in one run.

    Attributes:
        stage: Its name.
        status: What happened: nothing to do, outputs restored from the cache or pulled from the
            remote, ran, failed, or not tried because an earlier stage failed.
        why: What made it so, in one line; the error of a stage that failed.
        seconds: How long it took.
        kind: The class of the error of a failed stage, as its receipt names it.
        metrics: Its key figures.
    """

    stage: str
    status: Status
    why: str
    seconds: float = 0.0
    kind: str | None = None
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def is_failed(self) -> bool:
        """Tell whether the stage failed."""
        return self.status == "failed"

    @property
    def is_cached(self) -> bool:
        """Tell whether the stage's outputs were there already, here or in a cache."""
        return self.status in ("unchanged", "restored", "pulled")

    @property
    def is_worth_a_retry(self) -> bool:
        """Tell whether the same command may succeed when it is run again."""
        return self.is_failed and self.kind in RETRIED_KINDS


class Transcript:
    """Listens to `dvc repro` of one stage and remembers what DVC said of it."""

    def __init__(self, stage: str) -> None:
        self._says = {
            f"Running stage '{stage}'": "ran",
            f"Stage '{stage}' is cached - skipping run": "restored",
            f"Pulling data for stage: '{stage}'": "fetched",
            f"Stage '{stage}' didn't change": "unchanged",
        }
        self.heard: set[str] = set()
        self.exit_code: int | None = None
        self._error: list[str] = []

    def feed(self, line: str) -> None:
        """Take in one line of output."""
        for words, meaning in self._says.items():
            if line.startswith(words):
                self.heard.add(meaning)
        if found := _EXITED.search(line):
            self.exit_code = int(found[1])
        if line.startswith("ERROR: "):
            self._error = [line.removeprefix("ERROR: ")]
        elif self._error and len(self._error) < _ERROR_LINES:
            self._error.append(line.strip())

    @property
    def error(self) -> str:
        """Return DVC's last error in one line, empty when it named none."""
        return " ".join(self._error)


def is_network_fault(words: str) -> bool:
    """Tell whether an error's words speak of a server that did not answer."""
    return bool(_NETWORK.search(words))


def read_receipt(workspace: Path, stage: str) -> dict[str, Any]:
    """Return the newest receipt of ``stage``, empty when there is none that can be read."""
    try:
        receipt = json.loads(receipt_path(stage, root=workspace).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return receipt if isinstance(receipt, dict) else {}


def succeeded(stage: str, heard: set[str], look: Look, seconds: float, workspace: Path) -> Outcome:
    """Return the outcome of a stage whose `dvc repro` ended well."""
    status: Status
    if "ran" in heard:
        status, why = "ran", look.why or "it was forced"
    elif "restored" in heard:
        status, why = "restored", f"the run cache holds this run ({look.why})"
    elif "fetched" in heard and look.is_in_cache:
        status, why = "restored", f"the cache holds its output ({look.why})"
    elif "fetched" in heard:
        status, why = "pulled", f"the remote holds its output ({look.why})"
    else:
        status, why = "unchanged", "nothing that it depends on changed"
    return Outcome(stage, status, why, seconds, metrics=key_metrics(workspace, stage))


def failed(transcript: Transcript, stage: str, receipt: Mapping[str, Any], code: int, seconds: float) -> Outcome:
    """Return the outcome of a stage whose `dvc repro` failed.

    Args:
        transcript: What DVC said.
        stage: The stage's name.
        receipt: The receipt that this run wrote; empty when it wrote none.
        code: DVC's exit code.
        seconds: How long it took.
    """
    if error := receipt.get("error"):
        return Outcome(stage, "failed", " ".join(str(error).split()), seconds, kind=str(receipt.get("status", "bug")))
    if transcript.exit_code is not None:
        kind = _EXIT_KINDS.get(transcript.exit_code, "bug")
        why = f"it ended with exit code {transcript.exit_code} and left no receipt of an error; see its log"
        return Outcome(stage, "failed", why, seconds, kind=kind)
    why = transcript.error or f"dvc ended with exit code {code}; see its log"
    return Outcome(stage, "failed", why, seconds, kind="network" if is_network_fault(why) else "dvc")


def key_metrics(workspace: Path, stage: str) -> dict[str, Any]:
    """Return the key figures of ``stage`` from its metrics.json; those that are not there are left out."""
    folder, names = KEY_METRICS.get(stage, ("", ()))
    try:
        document = json.loads((workspace / folder / "metrics.json").read_text(encoding="utf-8")) if names else {}
    except (OSError, ValueError):
        return {}
    found = {name: _descend(document, name) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, int | float | str | bool)}


def _descend(document: Any, name: str) -> Any:
    for part in name.split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


def table(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return one row a stage for people: stage, status, why, seconds, key metrics."""
    return [
        {
            "stage": outcome.stage,
            "status": outcome.status if outcome.kind is None else f"{outcome.status} ({outcome.kind})",
            "why": outcome.why,
            "seconds": round(outcome.seconds, 1),
            "key metrics": ", ".join(f"{name} {_short(value)}" for name, value in outcome.metrics.items()),
        }
        for outcome in outcomes
    ]


def summary(outcomes: list[Outcome]) -> str:
    """Return one line: how many stages ran, were cached, failed or were skipped."""
    counts = collections.Counter(outcome.status for outcome in outcomes)
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
