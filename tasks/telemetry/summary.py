"""The short table that closes a run: what went in, what came out, and where to look.

run as: python -m tasks.telemetry.summary (after `dvc repro`)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.files import read_json
from tasks.telemetry.one_line import exit_status
from tasks.telemetry.registration import NOT_HERE, look_up


def lines(root: Path = Path()) -> list[tuple[str, str]]:
    """Return the table's rows, (what, value), from the results under ``root`` and from the registry.

    Raises:
        ArtifactError: A stage has not written its results yet.
    """
    pairs = read_json(root / paths.PAIRS / "metrics.json")
    trained = read_json(root / paths.TRAIN_RESULTS / "metrics.json")
    judged = read_json(root / paths.WINRATE / "metrics.json")
    before, after = trained["before"], trained["after"]
    return [
        ("pairs", _pairs(pairs)),
        ("held-out accuracy", f"{before['accuracy']:.3f} → {after['accuracy']:.3f}"),
        ("held-out margin", f"{before['margin']:+.3f} → {after['margin']:+.3f}"),
        ("win rate", _win_rate(judged)),
        ("registry", str(look_up(root) or NOT_HERE)),
        ("report", str(paths.REPORT / "report.html")),
    ]


def _pairs(metrics: dict[str, Any]) -> str:
    left_out = {"rejected": 0, **metrics["left_out"]}
    reasons = ", ".join(f"{n} {why.replace('_', ' ')}" for why, n in left_out.items() if n or why == "rejected")
    kept = metrics["pairs"]
    return f"{metrics['rows_read']} in, {reasons}: {kept['train']} to train on, {kept['test']} held out"


def _win_rate(metrics: dict[str, Any]) -> str:
    failed = [name for name, guard in metrics.get("guards", {}).items() if not guard["passed"]]
    doubt = f"not to be believed ({', '.join(failed)} failed): " if failed else ""
    return (
        f"{doubt}{metrics['win_rate']:.3f} against the reference, 95 % interval {metrics['low']:.3f} to "
        f"{metrics['high']:.3f}, {metrics['prompts']} prompts"
    )


def main() -> int:
    """Print the table for the checkout in the working directory."""
    rows = lines()
    width = max(len(what) for what, _ in rows)
    print()
    for what, value in rows:
        print(f"  {what:<{width}}  {value}")
    print()
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("summary", main))
