"""Prefect events of the pipeline: new preference data arrived, a version was promoted or refused.

    preference-data.arrived     new data is where `retrain` looks for it; payload: rows, source
    dpo.promoted, dpo.refused   a version was registered; payload: name, version, serial, win_rate, lower_bound, reasons

run as: python -m flows.events --source s3://bucket/feedback --rows 250    emits preference-data.arrived
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect.events import emit_event

from flows.dvc_project.outcome import read_json
from tasks.core import paths


def emit_release(workspace: Path) -> None:
    """Emit the gate's decision on the version that was just registered from ``workspace``; nothing without one."""
    entry = read_json(workspace / paths.REGISTER / "registration.json")
    decision = read_json(workspace / paths.REGISTER / "decision.json")
    if not entry or not entry.get("registered", True):  # an experiment is judged alone
        return

    name, version, serial = entry["name"], entry["version"], entry["serial"]
    numbers = decision.get("numbers", {})
    payload: dict[str, Any] = {"name": name, "version": version, "serial": serial}
    payload |= {key: numbers.get(key) for key in ("win_rate", "lower_bound")}
    payload["reasons"] = decision.get("reasons", [])

    resource = {"prefect.resource.id": f"dpo.version.{name}.{version}", "prefect.resource.name": f"{name}@v{serial}"}
    emit_event("dpo.promoted" if entry["promoted"] else "dpo.refused", resource=resource, payload=payload)


def main() -> int:
    """Emit the event of new data from the command line."""
    description = "Emit the event that new preference data arrived."
    parser = argparse.ArgumentParser(prog="python -m flows.events", description=description)
    parser.add_argument("--source", required=True, help="where the data is, as s3://bucket/feedback")
    parser.add_argument("--rows", type=int, required=True, help="the number of new rows")
    arguments = parser.parse_args()

    source = arguments.source
    resource = {"prefect.resource.id": f"dpo.preference-data.{source}", "prefect.resource.name": source}
    emit_event("preference-data.arrived", resource=resource, payload={"source": source, "rows": arguments.rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
