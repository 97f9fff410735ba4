"""Runs that fell silent are marked crashed: an automation of the Prefect server that listens for their heartbeats.

A run whose machine was lost, or whose process was killed with SIGKILL, tells the server nothing any more; it would
keep the one place that its deployment has until a person cancels it. Runs of deployments send a heartbeat every three
minutes, or as often as `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` says in their environment. Prefect Cloud has a managed
automation of its own for this.

run as: python -m flows.liveness [--silent-seconds S] [--remove]
        (`python -m flows.serve` does it for a box)
"""

from __future__ import annotations

import argparse
import datetime
import sys

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.prefect_ui import automations

NAME = "dpo: a run fell silent"
SILENT_S = 600.0  # three heartbeats of the usual frequency, and a restart of the server
_HEARTBEAT = "prefect.flow-run.heartbeat"
_EVERY_S = 30.0  # the least that Prefect lets heartbeats be apart


def automation(silent_s: float = SILENT_S) -> AutomationCore:
    """Return the automation that marks a run crashed of which nothing was heard for ``silent_s`` seconds."""
    trigger = EventTrigger(
        after={_HEARTBEAT},
        expect={"prefect.flow-run.*"},  # a heartbeat, or an end, whatever its state is called
        match=ResourceSpecification.model_validate({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=automations.OUR_FLOWS,
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=datetime.timedelta(seconds=silent_s),
    )
    message = f"nothing was heard of it for {silent_s:g} s: its machine or its process is gone"
    crash = ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message=message, force=False)
    return AutomationCore(name=NAME, description="Made by `python -m flows.liveness`", trigger=trigger, actions=[crash])


def set_up(client: SyncPrefectClient, silent_s: float = SILENT_S) -> None:
    """Make the automation, or bring the one that stands up to date."""
    automations.put(client, automation(silent_s))


def main() -> int:
    """Set up or remove the automation; the exit code is 1 where the server is not there."""
    parser = argparse.ArgumentParser(prog="python -m flows.liveness", description="Mark runs crashed that fell silent.")
    parser.add_argument("--silent-seconds", type=float, default=SILENT_S, metavar="S", help="%(default)g by default")
    parser.add_argument("--remove", action="store_true", help="leave silent runs as they are")
    words = parser.parse_args()
    if words.silent_seconds <= _EVERY_S:
        parser.error(f"heartbeats are {_EVERY_S:g} s apart or more: give more seconds, or every run is marked crashed")
    with automations.server() as client:
        if client is None:
            return 1
        if words.remove:
            print(f"{automations.remove(client, [NAME])} automations removed")
        else:
            set_up(client, words.silent_seconds)
            print(f"a run of which nothing is heard for {words.silent_seconds:g} s is marked crashed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
