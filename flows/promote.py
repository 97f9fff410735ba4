"""Promote a version by hand: by the gate's decision, or against it with a reason that the log keeps.

run as: python -m flows.promote demo@v3 [--override "why" | --reason "why"]
deploy: the entrypoint is `flows.promote.promote`; approval is a run of its own, so no process waits for a person
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.prefect_ui import command_line, run_names
from flows.registry_commands import run_command
from tasks.core.errors import GateRefused, PipelineError


@flow(name="promote", flow_run_name=run_names.of_registry_change, persist_result=False)
def promote(
    version: str,
    override: str | None = None,
    reason: str | None = None,
    tag: bool = False,
    workspace: Path = Path(),
) -> State[Any]:
    """Move the alias `champion` to a version, by the gate's decision or against it.

    Args:
        version: The version, as demo@v3 or demo@1f0c9a2b.
        override: Why it is promoted against the gate; the log keeps it. Without it the gate decides.
        reason: Why, or by whom it was approved, where the gate decides; the log keeps it.
        tag: Tag the checkout's commit for `dvc artifacts get`.
        workspace: The checkout whose params.yaml names the registry; the current folder by default.
    """
    command = ["promote", version, *(["--tag"] if tag else [])]
    for option, why in (("--override", override), ("--reason", reason)):
        command += [option, why] if why else []
    return run_registry_command(workspace, command)


def run_registry_command(workspace: Path, command: list[str]) -> State[Any]:
    """Run a command of the registry, show its output, and return the final state of the flow run."""
    try:
        output = run_command(workspace, *command)
    except GateRefused as error:
        return Failed(name="Refused", message=str(error))
    except PipelineError as error:
        return Failed(message=f"{error.kind}: {error}")

    get_run_logger().info(output)
    create_markdown_artifact(f"```text\n{output}\n```", key="registry", description=output.splitlines()[-1])
    return Completed(message=output.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(command_line.run(promote, "version", "--override", "--reason", "--tag", "--workspace"))
