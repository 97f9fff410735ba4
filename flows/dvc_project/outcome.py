"""The outcome of a stage, read from DVC's output, the stage's receipt and its exit code.

DVC exits with 255 after every failure. So the kind of an error, which decides whether a retry can help, comes from the
receipt that the stage wrote, and only without a receipt from DVC's output.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flows.dvc_project.graph import Staleness
from tasks.core.nested import flatten

Status = Literal["unchanged", "restored", "pulled", "ran", "failed", "skipped"]

RETRIED_KINDS = frozenset({"network", "preempted", "busy"})
# The metrics of each stage that the table of a run shows, as paths into its metrics.json.
KEY_METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "base": ("data/base", ("parameters",)),
    "ingest": ("data/pairs", ("rows_read", "left_out.rejected", "pairs.train", "pairs.test")),
    "encode": ("data/tokens", ("train.tokens", "test.tokens", "prompts")),
    "reference": ("data/reference", ("test.ranking_accuracy",)),
    "train": ("results/train", ("before.accuracy", "after.accuracy", "after.margin")),
    "respond": ("data/responses", ("prompts", "adapter_max_abs_delta_logit", "kl.per_answer")),
    "qualify": ("results/qualification", ("qualified", "agreement.bound")),
    "winrate": ("results/winrate", ("win_rate", "low", "high")),
    "register": ("results/register", ("serial", "promoted")),
}
_NETWORK = re.compile(
    r"timed? ?out|connection (refused|reset|aborted|error)|failed to connect|could not connect|endpoint ?url"
    r"|name resolution|temporarily unavailable|too many requests|slow ?down|service unavailable|\b50[234]\b",
    re.IGNORECASE,
)
_ERROR_LINES = 3  # DVC's errors have several lines: the first says what is wrong, the next ones in which file
_EXITED = re.compile(r"failed to run: .*, exited with (-?\d+)")
_EXIT_KINDS = {75: "preempted", 130: "interrupted", 137: "killed", -9: "killed", 143: "killed", -15: "killed"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one stage in one run.

    Attributes:
        stage: Its name.
        status: `unchanged`: nothing to do; `restored` from the cache; `pulled` from the remote; `ran`; `failed`; or
            `skipped`, because an earlier stage failed.
        why: The reason in one line; for a failed stage its error.
        seconds: How long it took.
        kind: The class of the error of a failed stage, as in its receipt.
        metrics: Its key metrics.
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
        """Tell whether the outputs existed already, here or in a cache."""
        return self.status in ("unchanged", "restored", "pulled")

    @property
    def is_worth_a_retry(self) -> bool:
        """Tell whether the same command may succeed if it runs again."""
        return self.is_failed and self.kind in RETRIED_KINDS


class Transcript:
    """What the output of `dvc repro` says about one stage.

    Attributes:
        messages: The messages about the stage so far, each by one word.
        exit_code: The exit code of the stage's command, once it failed.
    """

    def __init__(self, stage: str) -> None:
        self._meanings = {
            f"Running stage '{stage}'": "ran",
            f"Stage '{stage}' is cached - skipping run": "restored",
            f"Pulling data for stage: '{stage}'": "fetched",
            f"Stage '{stage}' didn't change": "unchanged",
        }
        self.messages: set[str] = set()
        self.exit_code: int | None = None
        self._error: list[str] = []

    def feed(self, line: str) -> None:
        """Read one line of output."""
        for start, meaning in self._meanings.items():
            if line.startswith(start):
                self.messages.add(meaning)
        if match := _EXITED.search(line):
            self.exit_code = int(match[1])
        if line.startswith("ERROR: "):
            self._error = [line.removeprefix("ERROR: ")]
        elif self._error and len(self._error) < _ERROR_LINES:
            self._error.append(line.strip())

    @property
    def error(self) -> str:
        """Return DVC's last error in one line; empty without one."""
        return " ".join(self._error)


def is_network_fault(message: str) -> bool:
    """Tell whether an error message is about a server that did not answer."""
    return bool(_NETWORK.search(message))


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is no readable one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def succeeded(stage: str, messages: set[str], staleness: Staleness, seconds: float, workspace: Path) -> Outcome:
    """Return the outcome of a stage whose `dvc repro` succeeded."""
    status: Status
    if "ran" in messages:
        status, why = "ran", staleness.why or "it was forced"
    elif "restored" in messages:
        status, why = "restored", f"the run cache holds this run ({staleness.why})"
    elif "fetched" in messages and staleness.is_in_cache:
        status, why = "restored", f"the cache holds its output ({staleness.why})"
    elif "fetched" in messages:
        status, why = "pulled", f"the remote holds its output ({staleness.why})"
    else:
        status, why = "unchanged", "nothing that it depends on changed"
    return Outcome(stage, status, why, seconds, metrics=key_metrics(workspace, stage))


def failed(transcript: Transcript, stage: str, receipt: Mapping[str, Any], code: int, seconds: float) -> Outcome:
    """Return the outcome of a stage whose `dvc repro` failed.

    Args:
        transcript: DVC's output.
        stage: The stage's name.
        receipt: The receipt that this run wrote; empty if it wrote none.
        code: DVC's exit code.
        seconds: How long it took.
    """
    if error := receipt.get("error"):
        return Outcome(stage, "failed", " ".join(str(error).split()), seconds, kind=str(receipt.get("status", "bug")))

    if transcript.exit_code is not None:
        kind = _EXIT_KINDS.get(transcript.exit_code, "bug")
        why = f"it ended with exit code {transcript.exit_code} and wrote no receipt of an error; see its log"
        return Outcome(stage, "failed", why, seconds, kind=kind)

    why = transcript.error or f"dvc ended with exit code {code}; see its log"
    return Outcome(stage, "failed", why, seconds, kind="network" if is_network_fault(why) else "dvc")


def key_metrics(workspace: Path, stage: str) -> dict[str, Any]:
    """Return the key metrics of ``stage`` from its metrics.json; missing ones are left out."""
    folder, names = KEY_METRICS.get(stage, ("", ()))
    values = flatten(read_json(workspace / folder / "metrics.json"))
    return {name: values[name] for name in names if isinstance(values.get(name), int | float | str)}


def table(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return a table with one row per stage: stage, status, why, seconds, key metrics."""

    def shown(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return [
        {
            "stage": outcome.stage,
            "status": outcome.status if outcome.kind is None else f"{outcome.status} ({outcome.kind})",
            "why": outcome.why,
            "seconds": round(outcome.seconds, 1),
            "key metrics": ", ".join(f"{name} {shown(value)}" for name, value in outcome.metrics.items()),
        }
        for outcome in outcomes
    ]


def summary(outcomes: list[Outcome]) -> str:
    """Return how many stages have each status, in one line."""
    counts = collections.Counter(outcome.status for outcome in outcomes)
    return ", ".join(f"{count} {status}" for status, count in counts.items())
