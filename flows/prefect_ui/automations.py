"""Automations of the Prefect server, known by name: made, brought up to date, removed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import PREFECT_API_URL, temporary_settings

LOCAL_SERVER = "http://127.0.0.1:4200/api"
FLOWS = ("pipeline", "retrain", "evaluate-only", "promote", "rollback", "plan")
OUR_FLOWS = ResourceSpecification.model_validate(
    {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
)


@contextlib.contextmanager
def server(advice: str = "set PREFECT_API_URL") -> Iterator[SyncPrefectClient | None]:
    """Give a client of the server that the settings name, or the one on this machine; None, and a line, without one.

    Inside, the settings name that server's address.
    """
    address = PREFECT_API_URL.value() or LOCAL_SERVER
    with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
        if fault:
            print(f"error: no Prefect server answers at {address} ({fault}) — {advice}", file=sys.stderr)
        yield None if fault else client


def put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Make an automation, or bring the one that has its name up to date."""
    known = client.read_automations_by_name(automation.name)
    for extra in known[1:]:
        client.delete_automation(extra.id)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


def remove(client: SyncPrefectClient, names: Iterable[str]) -> int:
    """Delete the automations that have one of these names; return how many there were."""
    found = [one for name in names for one in client.read_automations_by_name(name)]
    for automation in found:
        client.delete_automation(automation.id)
    return len(found)
