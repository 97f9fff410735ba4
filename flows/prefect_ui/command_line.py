"""What the commands of all flows share: the argument parser, and the settings and SIGTERM handler of a flow run."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import AbstractContextManager
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)


def parser(flow: Flow[..., Any]) -> argparse.ArgumentParser:
    """Return the argument parser of a flow's command, described by the first paragraph of the flow's docstring."""
    module = flow.fn.__name__  # each flow is in the module of its name
    return argparse.ArgumentParser(
        prog=f"python -m flows.{module}", description=(flow.fn.__doc__ or "").split("\n\n")[0]
    )


def run(flow: Flow[..., State[Any]], parser: argparse.ArgumentParser) -> int:
    """Run a flow with the arguments of its command, which are its parameters; return 0 if it completed, else 1."""
    arguments = vars(parser.parse_args())
    with flow_context():
        state = flow(**arguments, return_state=True)
    return int(not state.is_completed())


def flow_context() -> AbstractContextManager[Any]:
    """Let a flow run on the server of the profile or on a temporary one, and shut down cleanly on SIGTERM.

    A temporary server takes half a minute to start on two cores, longer than Prefect's default time-out.
    """
    # Prefect passes SIGTERM on once it has closed the run; a normal exit also stops a temporary server
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    settings = {PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    return temporary_settings(set_defaults=settings)
