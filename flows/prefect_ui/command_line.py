"""What the commands of all flows share: arguments from a flow's parameters, settings and SIGTERM handler of a run."""

from __future__ import annotations

import argparse
import inspect
import signal
import sys
import types
import typing
from contextlib import AbstractContextManager
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.settings import (
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)


def parser(flow: Flow[..., Any], *arguments: str) -> argparse.ArgumentParser:
    """Return the parser of a flow's command, with the types, defaults and descriptions of the flow's parameters.

    A switch is off unless it is given.

    Args:
        flow: The flow; it is in the module of its name.
        arguments: The parameters to offer, as `version` or `--branch-prefix`; `--timeout-minutes` stands for
            `stage_timeout_minutes`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m flows.{flow.fn.__name__}", description=(flow.fn.__doc__ or "").split("\n\n")[0]
    )
    signature, hints = inspect.signature(flow.fn).parameters, typing.get_type_hints(flow.fn)
    for argument in arguments:
        name = argument.removeprefix("--").replace("-", "_")
        name = name if name in signature else f"stage_{name}"
        text = flow.parameters.properties[name]["description"]
        # `str | None` is given as a str
        kind = next(kind for kind in typing.get_args(hints[name]) or [hints[name]] if kind is not types.NoneType)

        if kind is bool:
            parser.add_argument(argument, action="store_true", help=text)
        elif signature[name].default is not inspect.Parameter.empty:
            parser.add_argument(argument, dest=name, type=kind, default=signature[name].default, help=text)
        elif argument.startswith("--"):
            parser.add_argument(argument, dest=name, type=kind, required=True, help=text)
        else:
            parser.add_argument(argument, type=kind, help=text)
    return parser


def run(flow: Flow[..., State[Any]], *arguments: str) -> int:
    """Run a flow with the arguments of its command, see :func:`parser`; return 0 if it completed, else 1."""
    values = vars(parser(flow, *arguments).parse_args())
    with flow_context():
        state = flow(**values, return_state=True)
    return int(not state.is_completed())


def flow_context() -> AbstractContextManager[Any]:
    """Let a flow run on the server of the profile or on a temporary one, and shut down cleanly on SIGTERM.

    A temporary server takes half a minute to start on two cores, longer than Prefect's default time-out.
    """
    # Prefect passes SIGTERM on once it has closed the run; a normal exit also stops a temporary server
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    settings = {PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 180, PREFECT_SERVER_ANALYTICS_ENABLED: False}
    return temporary_settings(set_defaults=settings)
