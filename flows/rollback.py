"""Roll the alias `champion` back to the version that it named before.

run as: python -m flows.rollback demo --reason "answers got rude" [--leave demo@v3]
deploy: the entrypoint is `flows.rollback.rollback`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from flows.prefect_ui import command_line, run_names
from flows.promote import run_registry_command


@flow(name="rollback", flow_run_name=run_names.of_registry_change, persist_result=False)
def rollback(name: str, reason: str, leave: str | None = None, workspace: Path = Path()) -> State[Any]:
    """Move the alias `champion` back to the version that it named before.

    Args:
        name: The name of the versions, as demo.
        reason: Why; the log keeps it.
        leave: Roll back only if the alias names this version now, as demo@v3: a second run then changes nothing.
        workspace: The checkout whose params.yaml names the registry; the current folder by default.
    """
    return run_registry_command(
        workspace, ["rollback", name, "--reason", reason, *(["--from", leave] if leave else [])]
    )


if __name__ == "__main__":
    sys.exit(command_line.run(rollback, "name", "--reason", "--leave", "--workspace"))
