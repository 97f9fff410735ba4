"""The exit status of a command whose expected errors are one line each."""

from __future__ import annotations

from collections.abc import Callable

from tasks.core.errors import PipelineError
from tasks.core.files import explain_os_error
from tasks.telemetry import log


def exit_status(name: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit status; print an expected error or a fault of the disk as one line."""
    expected: PipelineError | None
    try:
        return command()
    except PipelineError as error:
        expected = error
    except OSError as error:
        expected = explain_os_error(error)
        if expected is None:
            raise
    log.say(name, str(expected), "error")
    return expected.exit_code
