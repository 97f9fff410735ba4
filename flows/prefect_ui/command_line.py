"""What the flows' commands share: how they meet a Prefect server, and how they end when they are told to."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import AbstractContextManager
from typing import Any

from prefect import Flow
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)


def parser(flow: Flow[..., Any]) -> argparse.ArgumentParser:
    """Return a parser of the words of a flow's command; its description is the flow's first paragraph."""
    module = flow.fn.__name__  # a flow lives in the module of its name
    return argparse.ArgumentParser(
        prog=f"python -m flows.{module}", description=(flow.fn.__doc__ or "").split("\n\n")[0]
    )


def patience() -> AbstractContextManager[Any]:
    """Let a flow run against the profile's server, or a temporary one, and end well on SIGTERM.

    A temporary server takes half a minute to start on two cores; Prefect's default gives up before.
    """
    # Prefect hands SIGTERM on when it has closed the run; leaving by the door stops a temporary server, too
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    settings = {PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    return temporary_settings(set_defaults=settings)
