"""Events that others may listen to: new preference data, and what became of a version at the gate.

    preference-data.arrived     somebody put new data where `retrain` looks; payload: rows, source
    dpo.promoted, dpo.refused   a version was registered; payload: name, version, serial, win_rate, lower_bound, reasons

run as: python -m flows.events --source s3://bucket/feedback --rows 250    tells that data arrived
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect.events import emit_event

from flows.prefect_ui import artifacts
from tasks.core import paths

ARRIVED = "preference-data.arrived"


def tell_arrival(source: str, rows: int) -> None:
    """Tell that ``rows`` new rows lie in ``source``."""
    resource = {"prefect.resource.id": f"dpo.preference-data.{source}", "prefect.resource.name": source}
    emit_event(ARRIVED, resource=resource, payload={"source": source, "rows": rows})


def tell_release(workspace: Path) -> None:
    """Tell what the gate said to the version that was just registered from ``workspace``."""
    entry = artifacts.read_json(workspace / paths.REGISTER / "registration.json")
    decision = artifacts.read_json(workspace / paths.REGISTER / "decision.json")
    if not entry:
        return
    numbers = decision.get("numbers", {})
    payload: dict[str, Any] = {key: entry[key] for key in ("name", "version", "serial")}
    payload |= {key: numbers.get(key) for key in ("win_rate", "lower_bound")}
    payload["reasons"] = decision.get("reasons", [])
    resource = {"prefect.resource.id": f"dpo.version.{entry['name']}.{entry['version']}"}
    resource["prefect.resource.name"] = f"{entry['name']}@v{entry['serial']}"
    emit_event("dpo.promoted" if entry["promoted"] else "dpo.refused", resource=resource, payload=payload)


def main() -> int:
    """Tell from the command line that data arrived."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.events", description="Tell that new preference data arrived."
    )
    parser.add_argument("--source", required=True, help="where they lie, as s3://bucket/feedback")
    parser.add_argument("--rows", type=int, required=True, help="how many they are")
    words = parser.parse_args()
    tell_arrival(words.source, words.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
