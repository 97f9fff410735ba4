"""Retrain when there is new preference data: looked up, counted, trained from the champion, judged, committed.

Everything happens in a worktree of its own under runs/worktrees/, which shares cache, row store and registry with
the checkout. The data's version is the key: one batch is trained once, whoever asks and however often, and a run
that died goes on where it was. What comes out is a branch with dvc.lock, params.yaml and *.dvc, and the result
table as its message; the cache is pushed before the branch. What a branch was trained on is not new while it waits.

With `also_stale`, stages that are stale for other reasons, by `python -m flows.plan`, are reason enough: then code,
params and commands belong to the key, and unless enough pairs are new, params.yaml is taken as it stands.

run as: python -m flows.retrain [--repository FOLDER] [--minimum-new-pairs N] [--also-stale] [--push] …
        exit status: 0 done, or nothing to do; 1 failed
deploy: the entrypoint is `flows.retrain.retrain`
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import registry_commands
from flows.dvc_project import forecast, new_data, stage_run
from flows.dvc_project.graph import stages_in_order
from flows.git_work import publish, workspaces
from flows.pipeline import RunSettings, bring_up_to_date
from flows.prefect_ui import artifacts, command_line, run_names
from tasks.core import paths
from tasks.core.errors import PipelineError
from tasks.core.files import digest_of, pretty_json, write_text

LOCK = paths.RUNS / "retrain.lock"
REPORTS = paths.RUNS / "reports"
START = Path("runs/retrain.json")  # in a worktree: what a run that goes on must not decide again


@dataclasses.dataclass(frozen=True)
class Batch:
    """What there is to train, in a worktree.

    Attributes:
        version: The data's version.
        worktree: Where it is worked on.
        new_pairs: How many pairs are new.
        champion: The version to start from and to beat; None where there is none.
        key: What the branch is called by: the data's version, where nothing else is stale.
        stale: Stages that are stale for other reasons than new data.
    """

    version: str
    worktree: Path
    new_pairs: int
    champion: str | None
    key: str
    stale: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """What it is to be trained for, in words."""
        pairs = [f"{self.new_pairs} new pairs"] if self.new_pairs or not self.stale else []
        return ", ".join([*pairs, *([f"stale: {', '.join(self.stale)}"] if self.stale else [])])


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a look: `status` is "nothing new" or "trained", and the rest as far as it got.

    `branch` is the one that holds the data, whoever made it.
    """

    status: str
    why: str
    data_version: str = ""
    branch: str = ""
    new_pairs: int = 0
    serial: int | None = None
    win_rate: float | None = None
    lower_bound: float | None = None
    promoted: bool | None = None
    report: str = ""


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
    """Look for new preference data; where there is enough, train from the champion, judge, and commit to a branch.

    Args:
        repository: The checkout whose HEAD is the start; it is not changed itself.
        minimum_new_pairs: Do nothing while fewer pairs than this are new.
        branch_prefix: The branch is called PREFIX/DATA-VERSION, or by another digest where other things are stale.
        push: Push DVC's cache to its remote and the branch to origin.
        stage_timeout_minutes: Stop a stage that takes longer; it may first write a checkpoint.
        gpu_limit: Prefect's concurrency limit that stages on a GPU take a place under, where the server has it.
        announced_rows: How many rows the event that started this run told of; the sources alone are believed.
        also_stale: Train, too, however few pairs are new, where stages are stale for other reasons: params or code.
    """
    say = get_run_logger().info
    if announced_rows is not None:
        say("told of %d new rows", announced_rows)
    try:
        with workspaces.held(repository / LOCK, say):
            batch = find(repository, minimum_new_pairs, branch_prefix, push, also_stale)
            if isinstance(batch, Result):
                return _close(batch)
            settings = RunSettings.of(False, stage_timeout_minutes, gpu_limit)
            state = bring_up_to_date(batch.worktree, settings, batch.champion, batch.champion)
            if not state.is_completed():
                return Failed(message=f"data {batch.version}: {state.message}")
            return _close(hand_on(repository, batch, branch_prefix, push))
    except PipelineError as error:
        return Failed(message=f"{error.kind}: {error}")


def find(
    repository: Path, minimum: int, prefix: str, asks_origin: bool = True, also_stale: bool = False
) -> Batch | Result:
    """Return what there is to train in a worktree that is ready for it, or why there is nothing to do.

    Raises:
        PipelineError: A source, the registry or git does not answer or refuses.
    """
    say = get_run_logger().info
    for left in sorted((repository / workspaces.WORKTREES).glob("look-*")):
        workspaces.give_up(repository, left)  # of a run that died; of an older commit nobody would ask for it
    start = workspaces.git(repository, "rev-parse", "HEAD")
    fresh = workspaces.worktree(repository, f"look-{start[:12]}", start)
    new_data.update(fresh, say)
    version = new_data.look(fresh)
    key, stale = _stale(fresh, version) if also_stale else (version.name, ())
    if not version.is_new and not stale:
        workspaces.give_up(repository, fresh)
        more = ", and no stage is stale" if also_stale else ""
        return Result("nothing new", f"the data are those of dvc.lock{more}", version.name)
    if publish.has_branch(repository, branch := f"{prefix}/{key}", asks_origin):
        workspaces.give_up(repository, fresh)
        report = repository.resolve() / REPORTS / key
        kept = str(report) if report.is_dir() else ""  # elsewhere than where it was trained there is none
        return Result("nothing new", f"branch {branch} has them already", version.name, branch, report=kept)
    worktree = workspaces.moved(repository, fresh, f"data-{version.name}" if version.is_new else "stale")
    begun = artifacts.read_json(worktree / START)
    if begun and begun.get("key", key) == key:
        say("going on with the run that was begun for data %s", version.name)
    else:
        known = _known(repository, worktree, prefix, asks_origin) if version.is_new else None
        _begin(worktree, minimum, key, known)
        begun = artifacts.read_json(worktree / START)
    if begun["new_pairs"] < minimum and not stale:
        workspaces.give_up(repository, worktree)
        return Result("nothing new", f"{begun['new_pairs']} new pairs, {minimum} are asked for", version.name)
    return Batch(version.name, worktree, begun["new_pairs"], begun["champion"], key, stale)


def _stale(workspace: Path, version: new_data.Version) -> tuple[str, tuple[str, ...]]:
    """Return the key of a run, and the stages that are stale for other reasons than new data.

    Where the data are new, all that reads them is stale: then a stage's own code, params and command have to say.
    """
    digest, changed = forecast.own_inputs(workspace, new_data.INGEST)
    if not version.is_new:
        changed = tuple(step.stage for step in forecast.forecast(workspace) if step.is_stale)
    return (digest_of(version.name + digest)[: len(version.name)] if changed else version.name), changed


def _begin(worktree: Path, minimum: int, key: str, known: set[str] | None) -> None:
    """Count the pairs that are not ``known`` and find the champion, once for all runs under this key.

    Where ``known`` is None, the data are not new.
    """
    new, champion = 0, None
    if known is not None:
        _ingest(worktree)
        new = len(new_data.pair_ids(worktree) - known)
        champion = registry_commands.champion(worktree) if new >= minimum else None
    write_text(worktree / START, pretty_json({"key": key, "new_pairs": new, "champion": champion}))


def _ingest(worktree: Path) -> None:
    say = get_run_logger().info
    for stage in stages_in_order(worktree):
        if stage.name == new_data.INGEST:
            if (outcome := stage_run.run(stage, worktree, say, run_id=str(runtime.flow_run.id or ""))).is_failed:
                raise PipelineError(f"`{stage.name}` failed ({outcome.kind}): {outcome.why}")
            break


def _known(repository: Path, worktree: Path, prefix: str, asks_origin: bool) -> set[str]:
    """Return the ids of the pairs that were trained on: by dvc.lock of HEAD, and by those of unmerged branches."""
    say = get_run_logger().info
    known, seen = new_data.known_pair_ids(worktree, say), {"", new_data.pairs_locked(repository, "HEAD")}
    for commit, branch in publish.unmerged(repository, prefix, asks_origin).items():
        if (locked := new_data.pairs_locked(repository, commit)) in seen:
            continue
        seen.add(locked)
        place = workspaces.worktree(repository, f"look-{commit[:12]}", commit)
        known |= new_data.known_pair_ids(place, say, f"the unmerged branch {branch}")
        workspaces.give_up(repository, place)
    return known


def hand_on(repository: Path, batch: Batch, prefix: str, push: bool) -> Result:
    """Push the cache, commit to the branch, push it, keep the report, and give the worktree up.

    Raises:
        PipelineError: The remote or git does not answer or refuses; what was trained stays in the worktree.
    """
    entry = artifacts.read_json(batch.worktree / paths.REGISTER / "registration.json")
    numbers = artifacts.read_json(batch.worktree / paths.REGISTER / "decision.json").get("numbers", {})
    branch = f"{prefix}/{batch.key}"
    if push:
        publish.push_cache(batch.worktree)
    publish.commit(batch.worktree, message(batch))
    if push and not publish.push_branch(batch.worktree, branch):
        get_run_logger().info("there is no remote `%s`: the branch %s stays here", publish.ORIGIN, branch)
    # last, for it says that all is done: a run that died before goes through this again
    workspaces.git(batch.worktree, "branch", branch)
    kept = repository.resolve() / REPORTS / batch.key
    shutil.rmtree(kept, ignore_errors=True)
    for folder, name in ((paths.REPORT, ""), (paths.RECEIPTS, "receipts")):
        if (batch.worktree / folder).is_dir():
            shutil.copytree(batch.worktree / folder, kept / name, dirs_exist_ok=True)
    workspaces.give_up(repository, batch.worktree)
    return Result(
        "trained",
        batch.why,
        batch.version,
        branch,
        batch.new_pairs,
        entry.get("serial"),
        numbers.get("win_rate"),
        numbers.get("lower_bound"),
        bool(entry.get("promoted")),
        str(kept),
    )


def message(batch: Batch) -> str:
    """Return the commit's message: what it was trained on, and what the evidence says."""
    rows = artifacts.win_rates(artifacts.read_json(batch.worktree / paths.WINRATE / "metrics.json"))
    what = "on" if batch.new_pairs or not batch.stale else "what is"
    lines = [f"Retrain {what} {batch.why} (data {batch.version})", ""]
    lines += [f"{row['against']}: {row['win rate']:.4f} ({row['low']:.4f} to {row['high']:.4f})" for row in rows]
    return "\n".join([*lines, "", artifacts.evidence(batch.worktree, with_report=False)])


def _close(result: Result) -> State[Any]:
    """Show what came of it, and return the flow's final state."""
    values = {key: value for key, value in dataclasses.asdict(result).items() if value not in ("", None)}
    table = "\n".join(f"| {key.replace('_', ' ')} | {value} |" for key, value in values.items())
    create_markdown_artifact(f"| | |\n|---|---|\n{table}", key="retrain", description=f"{result.status}: {result.why}")
    name = None if result.status == "trained" else "NothingNew"
    return Completed(name=name, message=f"{result.status}: {result.why}", data=result)


def main() -> int:
    """Look once from the command line."""
    parser = command_line.parser(retrain)
    parser.add_argument("--repository", type=Path, default=Path(), help="the checkout whose HEAD is the start")
    parser.add_argument("--minimum-new-pairs", type=int, default=100, metavar="N", help="do nothing below (100)")
    parser.add_argument("--branch-prefix", default="retrain", help="the branch is PREFIX/DIGEST")
    parser.add_argument("--also-stale", action="store_true", help="train, too, where params or code changed")
    parser.add_argument("--push", action="store_true", help="push the cache to DVC's remote and the branch to origin")
    parser.add_argument("--timeout-minutes", type=float, help="stop a stage that takes longer")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write what came of it as JSON")
    parser.add_argument("--report-dir", type=Path, metavar="FOLDER", help="copy the report there")
    words = parser.parse_args()
    with command_line.patience():
        state = retrain(
            words.repository,
            words.minimum_new_pairs,
            words.branch_prefix,
            words.push,
            words.timeout_minutes,
            also_stale=words.also_stale,
            return_state=True,
        )
    found = state.result(raise_on_failure=False)
    result = found if isinstance(found, Result) else Result("failed", state.message or "")
    if words.summary:
        write_text(words.summary, json.dumps(dataclasses.asdict(result), indent=2, ensure_ascii=False) + "\n")
    if words.report_dir and result.report:
        shutil.copytree(result.report, words.report_dir, dirs_exist_ok=True)
    print(f"{result.status}: {result.why}")
    return int(result.status == "failed")


if __name__ == "__main__":
    sys.exit(main())
