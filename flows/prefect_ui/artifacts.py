"""What a run shows in Prefect's pages: stages, progress, win rates, curves, the report and the registry's entry."""

from __future__ import annotations

import base64
import json
import re
import time
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.dvc_project import outcome
from flows.dvc_project.outcome import Outcome, read_json
from flows.prefect_ui.judge_table import judge_rows
from tasks.core import paths
from tasks.telemetry import registration

_BAR = re.compile(r"^(?P<what>[\w ]+):\s+(?P<percent>\d+)%\|")
_UPDATE_EVERY_S = 5.0


class Progress:
    """A progress artifact that follows the progress bar of a stage, or the JSON lines that stand for it.

    It is created by the first update.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._id: UUID | None = None
        self._percent = -1.0
        self._updated_at = 0.0

    def feed(self, line: str) -> None:
        """Update the artifact from a line of the stage's output."""
        if not (update := progress_of(line)):
            return
        (percent, text), now = update, time.monotonic()
        is_due = percent >= 100 or now - self._updated_at >= _UPDATE_EVERY_S

        if self._id is None:
            created = create_progress_artifact(percent, key=f"{self._stage}-progress", description=text)
            self._id = cast(UUID, created)  # a coroutine only in an async caller
        elif is_due and percent != self._percent:
            update_progress_artifact(self._id, percent, description=text)
        else:
            return
        self._percent, self._updated_at = percent, now

    def close(self, is_done: bool) -> None:
        """Set the artifact of a stage that succeeded to 100 %."""
        if self._id is not None and is_done and self._percent < 100:
            update_progress_artifact(self._id, 100.0, description=f"{self._stage}: done")


def progress_of(line: str) -> tuple[float, str] | None:
    """Return the percentage in a line of a stage's output and the text to show; None for other lines."""
    if bar := _BAR.match(line):
        return float(bar["percent"]), line
    if not line.startswith('{"time": '):
        return None
    try:
        record = json.loads(line)
        done, total = record["progress"]["done"], record["progress"]["total"]
        return (100.0 * done // total, str(record["message"])) if total else None
    except (ValueError, KeyError, TypeError):
        return None


def publish(outcomes: list[Outcome], workspace: Path) -> None:
    """Publish a table of the outcomes and, for stages that are up to date, their results."""
    create_table_artifact(table=outcome.table(outcomes), key="pipeline", description="The outcome of each stage")
    done = {outcome.stage for outcome in outcomes if outcome.status in ("ran", "restored", "pulled", "unchanged")}
    if "report" in done and (images := curves(workspace / paths.REPORT)):
        create_markdown_artifact(images, key="curves", description="Training curves")
    if "winrate" in done and (rows := win_rates(read_json(workspace / paths.WINRATE / "metrics.json"))):
        create_table_artifact(table=rows, key="win-rate", description="Win rates on held-out prompts")
    if "qualify" in done and (rows := judge_rows(workspace)):
        create_table_artifact(table=rows, key="judge", description="The judge's papers, and what it took")
    if "report" in done or "register" in done:
        text = evidence(workspace)
        create_markdown_artifact(text, key="evidence", description="The report and the registered version")


def failed_guards(metrics: dict[str, Any]) -> list[str]:
    """Return the guards for which a win rate is not to be believed."""
    return [name for name, guard in metrics.get("guards", {}).items() if not guard["passed"]]


def win_rates(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per opponent: the win rate against it with its interval, wins, ties and losses.

    Where a guard failed, each row says that its rate is not to be believed, and names the guard.
    """
    failed = failed_guards(metrics)
    opponents = {"reference": metrics, "champion": metrics.get("champion"), "control": metrics.get("control")}
    return [
        {
            "against": name if name != "control" else "control: the reference against itself",
            "win rate": result["win_rate"],
            "to be believed": f"no: {', '.join(failed)}" if failed else "yes",
            "low": result["low"],
            "high": result["high"],
            **{key: result.get(key, "") for key in ("wins", "ties", "losses", "prompts")},
        }
        for name, result in opponents.items()
        if isinstance(result, dict) and "win_rate" in result
    ]


def evidence(workspace: Path, with_report: bool = True) -> str:
    """Return Markdown with the path of the report, the version as the registry knows it and the gate's decision."""
    report, lines = workspace.resolve() / paths.REPORT / "report.html", []
    if with_report and report.is_file():
        lines.append(f"- **Report**: [{report.name}]({report.as_uri()}) in `{report.parent}`")

    if version := registration.look_up(workspace):
        decision = read_json(workspace / paths.REGISTER / "decision.json")
        lines.append(f"- **Registry**: {version}")
        if not version.fault:
            lines.append(f"- **Show it**: `python -m tasks.registry show {version.name}@{version.digest[:12]}`")
        lines += [f"  - {reason}" for reason in decision.get("reasons", ())]
    return "\n".join(lines) or "Nothing was reported or registered."


def curves(report: Path) -> str:
    """Return Markdown that shows the curves in a report's folder; empty where there are none."""
    images = []
    for path in sorted((report / "curves").glob("*.svg")):
        data = base64.b64encode(path.read_bytes()).decode()
        images.append(f"![{path.stem}](data:image/svg+xml;base64,{data})")
    return "\n\n".join([*images, "Strong lines: held-out pairs. Faint lines: training batches."]) if images else ""
