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
from flows.dvc_project.outcome import Outcome
from tasks.core import paths

_BAR = re.compile(r"^(?P<what>[\w ]+):\s+(?P<percent>\d+)%\|")
_UPDATE_EVERY_S = 5.0


class Progress:
    """Moves a progress artifact along with the bar that a stage draws, or the JSON lines in its place.

    There is none before the first of them.
    """

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._id: UUID | None = None
        self._percent = -1.0
        self._told = 0.0

    def feed(self, line: str) -> None:
        """Take in a line of the stage's output."""
        if not (found := how_far(line)):
            return
        (percent, line), now = found, time.monotonic()
        is_due = percent >= 100 or now - self._told >= _UPDATE_EVERY_S
        if self._id is None:
            made = create_progress_artifact(percent, key=f"{self._stage}-progress", description=line)
            self._id = cast(UUID, made)  # a coroutine only where the caller is one
        elif is_due and percent != self._percent:
            update_progress_artifact(self._id, percent, description=line)
        else:
            return
        self._percent, self._told = percent, now

    def close(self, is_done: bool) -> None:
        """Fill the bar of a stage that ended well."""
        if self._id is not None and is_done and self._percent < 100:
            update_progress_artifact(self._id, 100.0, description=f"{self._stage}: done")


def how_far(line: str) -> tuple[float, str] | None:
    """Return the percentage that a line of a stage tells of, and its text; None of other lines."""
    if found := _BAR.match(line):
        return float(found["percent"]), line
    if not line.startswith('{"time": '):
        return None
    try:
        told = json.loads(line)
        done, total = told["progress"]["done"], told["progress"]["total"]
        return (100.0 * done // total, str(told["message"])) if total else None
    except (ValueError, KeyError, TypeError):
        return None


def publish(outcomes: list[Outcome], workspace: Path) -> None:
    """Show what became of each stage and, of those that are up to date, what they found."""
    create_table_artifact(table=outcome.table(outcomes), key="pipeline", description="What became of each stage")
    done = {outcome.stage for outcome in outcomes if outcome.status in ("ran", "restored", "pulled", "unchanged")}
    if "report" in done and (images := curves(workspace / paths.REPORT)):
        create_markdown_artifact(images, key="curves", description="The curves of the training")
    if "winrate" in done and (rows := win_rates(read_json(workspace / paths.WINRATE / "metrics.json"))):
        create_table_artifact(table=rows, key="win-rate", description="Win rates on held-out prompts")
    if "report" in done or "register" in done:
        create_markdown_artifact(evidence(workspace), key="evidence", description="The report and the registry's entry")


def win_rates(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row an opponent: its win rate with the interval, wins, ties, losses."""
    sides = {"reference": metrics, "champion": metrics.get("champion"), "control": metrics.get("control")}
    return [
        {
            "against": name if name != "control" else "control: the reference against itself",
            "win rate": found["win_rate"],
            "low": found["low"],
            "high": found["high"],
            **{key: found.get(key, "") for key in ("wins", "ties", "losses", "prompts")},
        }
        for name, found in sides.items()
        if isinstance(found, dict) and "win_rate" in found
    ]


def evidence(workspace: Path, with_report: bool = True) -> str:
    """Return Markdown that says where the report lies, what was registered, and what the gate said."""
    report, lines = workspace.resolve() / paths.REPORT / "report.html", []
    if with_report and report.is_file():
        lines.append(f"- **Report**: [{report.name}]({report.as_uri()}) in `{report.parent}`")
    entry = read_json(workspace / paths.REGISTER / "registration.json")
    decision = read_json(workspace / paths.REGISTER / "decision.json")
    if entry:
        name, digest = entry["name"], entry["version"]
        became = f"promoted to `{entry['alias']}`" if entry["promoted"] else f"not promoted: {entry['outcome']}"
        lines.append(f"- **Registry**: `{name}@v{entry['serial']}` (`{digest[:12]}`), {became}")
        lines.append(f"- **Look at it**: `python -m tasks.registry show {name}@{digest[:12]}`")
    lines += [f"  - {reason}" for reason in decision.get("reasons", ())]
    return "\n".join(lines) or "Nothing was reported or registered."


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object, empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def curves(report: Path) -> str:
    """Return Markdown that shows the curves in a report's folder; empty where there are none."""
    images = []
    for path in sorted((report / "curves").glob("*.svg")):
        data = base64.b64encode(path.read_bytes()).decode()
        images.append(f"![{path.stem}](data:image/svg+xml;base64,{data})")
    return "\n\n".join([*images, "Strong lines: held-out pairs. Faint lines: training batches."]) if images else ""
