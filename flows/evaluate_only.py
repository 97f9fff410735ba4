"""Evaluate the present adapter again, with other prompts, judge or opponent; train and register nothing.

run as: python -m flows.evaluate_only [--opponent demo@champion] [--workspace FOLDER]
deploy: the entrypoint is `flows.evaluate_only.evaluate_only`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows import registry_commands
from flows.dvc_project.forecast import forecast
from flows.dvc_project.graph import stages_in_order
from flows.git_work import workspaces
from flows.pipeline import RunSettings, finish, run_all
from flows.prefect_ui import command_line, run_names
from tasks.core.errors import ArtifactError, PipelineError

STAGES = (registry_commands.ADAPTERS, registry_commands.RESPOND, "benchmarks", "qualify", "winrate", "report")


@flow(name="evaluate-only", flow_run_name=run_names.of_run, persist_result=False)
def evaluate_only(
    workspace: Path = Path(),
    opponent: str | None = None,
    force: bool = False,
    stage_timeout_minutes: float | None = None,
    gpu_limit: str = "gpu",
) -> State[Any]:
    """Bring answers, win rates and the report up to date for the present adapter; train and register nothing.

    Args:
        workspace: The checkout to work in; the current folder by default.
        opponent: Version that the adapter is compared with head to head, as demo@champion.
        force: Answer and judge again even if nothing changed.
        stage_timeout_minutes: Stop a stage that takes longer.
        gpu_limit: Name of the Prefect concurrency limit that stages on a GPU take a slot of, if the server has it.
    """
    settings = RunSettings(force, stage_timeout_minutes, gpu_limit)

    try:
        with workspaces.hold_lock(workspace / workspaces.LOCK, get_run_logger().info):
            refuse_stale(workspace)
            if opponent:
                get_run_logger().info(registry_commands.pin(workspace, registry_commands.CHAMPION, opponent))
            order = [stage for stage in stages_in_order(workspace) if stage.name in STAGES]
            outcomes = run_all(order[:1], workspace, settings)
            if not outcomes[0].is_failed:
                refuse_stale(workspace)  # `adapters` has run, so whether the stages after it are stale is known
            return finish(run_all(order[1:], workspace, settings, before=outcomes), workspace)
    except PipelineError as error:
        return Failed(message=f"{error.kind}: {error}")


def refuse_stale(workspace: Path) -> None:
    """Refuse an adapter that was not trained from the checkout's params and data, or is missing.

    Raises:
        ArtifactError: A stage before `respond` is stale, or its output is missing.
    """
    is_adapters_stale = False
    for step in forecast(workspace):
        if step.stage == registry_commands.RESPOND:
            return
        if step.stage == registry_commands.ADAPTERS:
            is_adapters_stale = step.is_stale
        elif (
            step.stage not in STAGES
            and step.forecast != "unchanged"
            and not (is_adapters_stale and step.forecast == "may run")
        ):
            message = f"`{step.stage}` is not up to date: {step.why}"
            raise ArtifactError(message, "run the pipeline, or get its output with `dvc pull`")


if __name__ == "__main__":
    sys.exit(command_line.run(evaluate_only, "--workspace", "--opponent", "--force"))
