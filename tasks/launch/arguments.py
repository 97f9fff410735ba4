"""The command line of a stage, which takes no argument but `--help`: params.yaml says the rest."""

from __future__ import annotations

import sys

from tasks.telemetry import log


def refuse_arguments(stage: str) -> None:
    """Where this process was started as `python -m tasks.<stage>`: print the stage's help, or refuse other arguments.

    Raises:
        SystemExit: With status 0 after the help, 2 after an argument that is not known.
    """
    module = sys.modules["__main__"]
    if getattr(getattr(module, "__spec__", None), "name", "") != f"tasks.{stage}" or len(sys.argv) < 2:
        return
    if sys.argv[1] in ("-h", "--help"):
        print((module.__doc__ or "").strip())
        sys.exit(0)
    message = f"unknown argument `{sys.argv[1]}` — its params are in params.yaml; `--help` says what it does"
    log.say(stage, message, "error")
    sys.exit(2)
