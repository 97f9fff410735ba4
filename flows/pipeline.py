"""The pipeline as a Prefect flow: every stage of dvc.yaml in order, one task per stage.

DVC decides which stages run. The flow retries them, streams their logs and shows their outcomes. The task of a stage
ends `Completed` if the stage ran, in a completed state named `Cached` if its outputs existed already (unchanged,
restored or pulled), or `Failed` with the one-line error of its receipt.

run as: python -m flows.pipeline [--force] [--timeout-minutes M] [--workspace FOLDER]
        on the server of your Prefect profile, or on a temporary one if the profile names none
deploy: the entrypoint is `flows.pipeline.pipeline`
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.concurrency.sync import concurrency
from prefect.states import Completed, Failed

from flows import events, registry_commands
from flows.dvc_project import stage_run
from flows.dvc_project.graph import Stage, stages_in_order
from flows.dvc_project.outcome import Outcome, summary
from flows.git_work import workspaces
from flows.prefect_ui import artifacts, command_line, run_names
from tasks.core.errors import PipelineError

RETRY_DELAYS_S = [10.0, 60.0, 300.0]
LEASE_S = 120.0


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How every stage is run: see the parameters of :func:`pipeline`."""

    force: bool = False
    stage_timeout_minutes: float | None = None
    gpu_limit: str = ""


def is_worth_a_retry(task: Any, task_run: Any, state: State[Any]) -> bool:
    """Tell whether a retry may succeed: after a network fault or a preemption, not after bad data or a bug."""
    del task, task_run
    return isinstance(state.data, Outcome) and state.data.is_worth_a_retry


@task(
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=is_worth_a_retry,
)
def run_stage(stage: Stage, workspace: Path, settings: RunSettings) -> State[Outcome]:
    """Bring one stage up to date and return the state of its outcome."""
    progress = artifacts.Progress(stage.name)

    def listen(line: str) -> None:
        get_run_logger().info(line)
        progress.feed(line)

    minutes = settings.stage_timeout_minutes
    timeout_s = None if minutes is None else minutes * 60
    with lease(stage, settings):
        run_id = str(runtime.flow_run.id or "")
        outcome = stage_run.run(stage, workspace, listen, settings.force, timeout_s, run_id=run_id)
    progress.close(is_done=not outcome.is_failed)
    return as_state(outcome)


def lease(stage: Stage, settings: RunSettings) -> AbstractContextManager[None]:
    """Take a slot of the concurrency limit for a stage that uses a GPU, for as long as it runs.

    The lease is renewed while this process lives, and expires soon after its death. A server without such a limit
    limits nothing: `prefect gcl create gpu --limit 1` creates it.
    """
    if not stage.uses_gpu or not settings.gpu_limit:
        return nullcontext()
    return concurrency(settings.gpu_limit, occupy=1, lease_duration=LEASE_S)


def as_state(outcome: Outcome) -> State[Outcome]:
    """Return the Prefect state for a stage's outcome; the state carries the outcome."""
    if outcome.is_failed:
        return Failed(message=f"{outcome.kind}: {outcome.why}", data=outcome)
    message = f"{outcome.status}: {outcome.why}"
    return Completed(name="Cached" if outcome.is_cached else None, message=message, data=outcome)


@flow(name="pipeline", flow_run_name=run_names.of_run, persist_result=False)
def pipeline(
    workspace: Path = Path(),
    force: bool = False,
    stage_timeout_minutes: float | None = None,
    opponent: str | None = None,
    continue_from: str | None = None,
    gpu_limit: str = "gpu",
) -> State[Any]:
    """Run every stage that is stale, in order, from preference data to a registered adapter.

    Args:
        workspace: The checkout to work in; the current folder by default. A second run there waits for the first.
        force: Run every stage even if nothing changed.
        stage_timeout_minutes: Stop a stage that takes longer; it may write a checkpoint first.
        opponent: Version that a new adapter is to beat head to head, as demo@champion: the digest that it names once
            the adapter is trained is written into params.yaml. Where it names nothing yet there is no opponent.
        continue_from: Version that training goes on from, as demo@champion; its digest is written there, too.
        gpu_limit: Name of the Prefect concurrency limit that stages on a GPU take a slot of, if the server has it.
    """
    try:
        settings = RunSettings(force, stage_timeout_minutes, gpu_limit)
        return bring_up_to_date(workspace, settings, opponent, continue_from)
    except PipelineError as error:
        return Failed(message=f"{error.kind}: {error}")


def bring_up_to_date(
    workspace: Path, settings: RunSettings, opponent: str | None, continue_from: str | None
) -> State[Any]:
    """Run every stage that is stale, and show the outcomes; the parameters are those of :func:`pipeline`.

    Raises:
        PipelineError: The checkout cannot be read or written, or the registry does not know a version.
    """
    with workspaces.hold_lock(workspace / workspaces.LOCK, get_run_logger().info):
        order = stages_in_order(workspace)
        if continue_from:
            get_run_logger().info(registry_commands.pin(workspace, registry_commands.INIT_ADAPTER, continue_from))
        return finish(run_all(order, workspace, settings, opponent), workspace)


def run_all(
    order: Sequence[Stage],
    workspace: Path,
    settings: RunSettings,
    opponent: str | None = None,
    before: Sequence[Outcome] = (),
) -> list[Outcome]:
    """Bring stages up to date in order; after a failed one, here or in ``before``, the rest are skipped."""
    outcomes = [*before]
    for stage in order:
        if opponent and stage.name == registry_commands.RESPOND and not any(outcome.is_failed for outcome in outcomes):
            outcomes += pin_opponent(order, workspace, settings, opponent)
        if failure := next((outcome for outcome in outcomes if outcome.is_failed), None):
            outcomes.append(Outcome(stage.name, "skipped", f"{failure.stage} failed"))
            continue
        outcomes.append(run_one(stage, workspace, settings))
    return outcomes


def run_one(stage: Stage, workspace: Path, settings: RunSettings) -> Outcome:
    """Bring one stage up to date in a task of the same name."""
    named = run_stage.with_options(name=stage.name, task_run_name=stage.name)
    return outcome_of(stage, named(stage, workspace, settings, return_state=True))


def pin_opponent(order: Sequence[Stage], workspace: Path, settings: RunSettings, opponent: str) -> list[Outcome]:
    """Write the opponent's digest into params.yaml, and run `adapters` again; return its outcome unless it was cached.

    Only after training is it known whether the opponent is the adapter that was just trained, so the stage `adapters`,
    which ran before training, runs again. Its other output stays the same, so no other stage becomes stale.
    """
    try:
        get_run_logger().info(registry_commands.pin(workspace, registry_commands.CHAMPION, opponent))
    except PipelineError as error:
        return [Outcome("pin", "failed", str(error), kind=error.kind)]
    again = [run_one(stage, workspace, settings) for stage in order if stage.name == registry_commands.ADAPTERS]
    return [outcome for outcome in again if not outcome.is_cached]


def outcome_of(stage: Stage, state: State[Any]) -> Outcome:
    """Return the outcome in a task's final state; a state without one is an error of kind `flow`."""
    if isinstance(state.data, Outcome):
        return state.data
    if isinstance(result := state.result(raise_on_failure=False), Outcome):
        return result
    return Outcome(stage.name, "failed", state.message or str(state.type), kind="flow")


def finish(outcomes: list[Outcome], workspace: Path) -> State[Any]:
    """Publish artifacts, log the outcomes, emit the gate's event, and return the final state of the flow."""
    artifacts.publish(outcomes, workspace)

    logger = get_run_logger()
    for outcome in outcomes:
        logger.info("%-10s %-9s %6.1f s  %s", outcome.stage, outcome.status, outcome.seconds, outcome.why)

    if failure := next((outcome for outcome in outcomes if outcome.is_failed), None):
        return Failed(message=f"stage `{failure.stage}` failed ({failure.kind}): {failure.why}")
    if any(outcome.stage == "register" and outcome.status == "ran" for outcome in outcomes):
        events.emit_release(workspace)
    return Completed(message=summary(outcomes))


if __name__ == "__main__":
    sys.exit(command_line.run(pipeline, "--workspace", "--force", "--opponent", "--continue-from", "--timeout-minutes"))
