"""An automation of the Prefect server that marks runs crashed whose heartbeats stopped.

A run whose machine was lost, or whose process was killed with SIGKILL, reports nothing more to the server; it would
hold the only slot of its deployment until a person cancels it. Runs of deployments send a heartbeat every three
minutes, or as often as `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` says in their environment. Prefect Cloud has a managed
automation for this.

run as: python -m flows.liveness [--silent-seconds S] [--remove]
        (`python -m flows.serve` sets it up for a single box)
"""

from __future__ import annotations

import argparse
import datetime
import sys

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

from flows.prefect_ui import automations

NAME = "dpo: a run fell silent"
SILENT_S = 600.0  # three heartbeats at the default frequency, and time for the server to restart
_EVERY_S = 30.0  # the shortest interval of heartbeats that Prefect allows


def automation(silent_s: float = SILENT_S) -> AutomationCore:
    """Return the automation that marks a run crashed after ``silent_s`` seconds without an event of it."""
    trigger = EventTrigger(
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.*"},  # a heartbeat, or a final state of any name
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        match_related=automations.OUR_FLOWS,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=datetime.timedelta(seconds=silent_s),
    )
    message = f"no event of it for {silent_s:g} s: its machine or its process is gone"
    crash = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message, force=False)
    return AutomationCore(name=NAME, description="Made by `python -m flows.liveness`", trigger=trigger, actions=[crash])


def main() -> int:
    """Set up or remove the automation; the exit code is 1 if the server does not answer."""
    parser = argparse.ArgumentParser(prog="python -m flows.liveness", description=__doc__.splitlines()[0])
    parser.add_argument("--silent-seconds", type=float, default=SILENT_S, metavar="S", help="%(default)g by default")
    parser.add_argument("--remove", action="store_true", help="remove the automation")
    arguments = parser.parse_args()
    if arguments.silent_seconds <= _EVERY_S:
        parser.error(f"heartbeats are {_EVERY_S:g} s apart or more: give more seconds, or every run is marked crashed")

    with automations.server() as client:
        if client is None:
            return 1
        if arguments.remove:
            print(f"{automations.remove(client, [NAME])} automations removed")
        else:
            automations.put(client, automation(arguments.silent_seconds))
            print(f"a run without an event for {arguments.silent_seconds:g} s is marked crashed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
