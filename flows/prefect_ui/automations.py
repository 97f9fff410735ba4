"""Automations of the Prefect server, identified by name: create, update, remove."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL, temporary_settings

LOCAL_SERVER = "http://127.0.0.1:4200/api"
FLOWS = ("pipeline", "retrain", "evaluate-only", "promote", "rollback", "plan")
OUR_FLOWS: dict[str, str | list[str]] = {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}


@contextlib.contextmanager
def server(advice: str = "set PREFECT_API_URL") -> Iterator[SyncPrefectClient | None]:
    """Give a client of the server in Prefect's settings, or of the local one; None, and a message, if it is not there.

    Inside the context the settings hold that server's address.
    """
    address = PREFECT_API_URL.value() or LOCAL_SERVER
    with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
        fault = client.api_healthcheck()
        if fault:
            print(f"error: no Prefect server answers at {address} ({fault}) — {advice}", file=sys.stderr)
        yield None if fault else client


def put(client: SyncPrefectClient, automation: AutomationCore) -> None:
    """Create an automation, or update the one of the same name."""
    known = client.read_automations_by_name(automation.name)
    for extra in known[1:]:
        client.delete_automation(extra.id)
    if known:
        client.update_automation(known[0].id, automation)
    else:
        client.create_automation(automation)


def remove(client: SyncPrefectClient, names: Iterable[str]) -> int:
    """Delete the automations with these names; return how many there were."""
    automations = [one for name in names for one in client.read_automations_by_name(name)]
    for automation in automations:
        client.delete_automation(automation.id)
    return len(automations)
