"""Roll an alias back to the version that it named before.

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
from flows.promote import of_deed


@flow(name="rollback", flow_run_name=run_names.of_deed, persist_result=False)
def rollback(name: str, reason: str, leave: str | None = None, workspace: Path = Path()) -> State[Any]:
    """Move the alias `champion` back to the version that it named before.

    Args:
        name: The line of versions, as demo.
        reason: Why; the log keeps it.
        leave: Only if the alias names this version now, as demo@v3: a second run then changes nothing.
        workspace: The checkout whose params.yaml names the registry; the current folder by default.
    """
    return of_deed(workspace, ["rollback", name, "--reason", reason, *(["--from", leave] if leave else [])])


def main() -> int:
    """Roll back from the command line, as a run that Prefect shows."""
    parser = command_line.parser(rollback)
    parser.add_argument("name", help="the line of versions, as demo")
    parser.add_argument("--reason", required=True, help="why; the log keeps it")
    parser.add_argument("--leave", metavar="VERSION", help="only if the alias names this version now")
    parser.add_argument("--workspace", type=Path, default=Path(), help="the checkout whose registry it is")
    words = parser.parse_args()
    with command_line.patience():
        state = rollback(words.name, words.reason, words.leave, words.workspace, return_state=True)
    return int(not state.is_completed())


if __name__ == "__main__":
    sys.exit(main())
