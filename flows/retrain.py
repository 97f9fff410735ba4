"""Retrain when there is new preference data: count it, train from the champion, judge, commit to a branch.

A run works in a separate worktree under runs/worktrees/, which shares cache, row store and registry with the checkout.
The version of the data is the idempotency key: each version is trained once, however often the flow is started, and a
run that died resumes. The result is a branch with dvc.lock, params.yaml and *.dvc, whose commit message holds the
results; the cache is pushed before the branch. Pairs that an unmerged branch was trained on do not count as new.

With `also_stale`, the flow also trains if stages are stale for other reasons (see `python -m flows.plan`). Then code,
params and commands belong to the key, and unless enough pairs are new, params.yaml is used as it is.

run as: python -m flows.retrain [--repository FOLDER] [--minimum-new-pairs N] [--also-stale] [--push] …
        exit status: 0 if it trained or had nothing to do, 1 if it failed
deploy: the entrypoint is `flows.retrain.retrain`
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.git_work import workspaces
from flows.pipeline import RunSettings, bring_up_to_date
from flows.prefect_ui import command_line, run_names
from flows.retrain_batch import Result, deliver, find_batch
from tasks.core import paths
from tasks.core.errors import PipelineError
from tasks.core.files import write_text

LOCK = paths.RUNS / "retrain.lock"


@flow(name="retrain", flow_run_name=run_names.of_run, persist_result=False)
def retrain(
    repository: Path = Path(),
    minimum_new_pairs: int = 100,
    branch_prefix: str = "retrain",
    push: bool = True,
    stage_timeout_minutes: float | None = None,
    gpu_limit: str = "gpu",
    announced_rows: int | None = None,
    also_stale: bool = False,
) -> State[Any]:
    """Look for new preference data; if there is enough, train from the champion, judge, and commit to a branch.

    Args:
        repository: The checkout whose HEAD is the start; it is not changed.
        minimum_new_pairs: Train only if at least so many pairs are new; 100 by default.
        branch_prefix: The branch is PREFIX/DATA-VERSION, or PREFIX/DIGEST if stages are stale for other reasons.
        push: Push DVC's cache to its remote and the branch to origin.
        stage_timeout_minutes: Stop a stage that takes longer; it may write a checkpoint first.
        gpu_limit: Name of the Prefect concurrency limit that stages on a GPU take a slot of, if the server has it.
        announced_rows: The number of new rows in the event that started this run; only logged, the sources are counted.
        also_stale: Also train if stages are stale for other reasons (params, code), however few pairs are new.
    """
    log = get_run_logger().info
    if announced_rows is not None:
        log("%d new rows were announced", announced_rows)

    try:
        with workspaces.hold_lock(repository / LOCK, log):
            batch = find_batch(repository, minimum_new_pairs, branch_prefix, push, also_stale)
            if isinstance(batch, Result):
                return _finish(batch)

            settings = RunSettings(False, stage_timeout_minutes, gpu_limit)
            state = bring_up_to_date(batch.worktree, settings, batch.champion, batch.champion)
            if not state.is_completed():
                return Failed(message=f"data {batch.version}: {state.message}")
            return _finish(deliver(repository, batch, branch_prefix, push))
    except PipelineError as error:
        return Failed(message=f"{error.kind}: {error}")


def _finish(result: Result) -> State[Any]:
    """Show the result, and return the final state of the flow."""
    values = {key: value for key, value in dataclasses.asdict(result).items() if value not in ("", None)}
    table = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in values.items())
    create_markdown_artifact(f"| | |\n|---|---|\n{table}", key="retrain", description=f"{result.status}: {result.why}")
    name = None if result.status == "trained" else "NothingNew"
    return Completed(name=name, message=f"{result.status}: {result.why}", data=result)


def main() -> int:
    """Run the flow once from the command line; the exit code is 1 if it failed."""
    names = ["--repository", "--minimum-new-pairs", "--branch-prefix", "--also-stale", "--push", "--timeout-minutes"]
    parser = command_line.parser(retrain, *names)
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument("--report-dir", type=Path, metavar="FOLDER", help="copy the report to this folder")
    values = vars(parser.parse_args())
    summary, report = values.pop("summary"), values.pop("report_dir")

    with command_line.flow_context():
        state = retrain(**values, return_state=True)

    value = state.result(raise_on_failure=False)
    result = value if isinstance(value, Result) else Result("failed", state.message or "")
    if summary:
        write_text(summary, json.dumps(dataclasses.asdict(result), indent=2, ensure_ascii=False) + "\n")
    if report and result.report:
        shutil.copytree(result.report, report, dirs_exist_ok=True)
    print(f"{result.status}: {result.why}")
    return int(result.status == "failed")


if __name__ == "__main__":
    sys.exit(main())
