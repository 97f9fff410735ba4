"""A version of the data to retrain on: found and counted in a worktree, and delivered to a branch once trained."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime

from flows import registry_commands
from flows.dvc_project import forecast, new_data, stage_run
from flows.dvc_project.graph import stages_in_order
from flows.dvc_project.outcome import read_json
from flows.git_work import publish, workspaces
from flows.prefect_ui import artifacts
from tasks.core import paths
from tasks.core.errors import PipelineError
from tasks.core.files import digest_of, pretty_json, write_text
from tasks.telemetry.git_calls import git

REPORTS = paths.RUNS / "reports"
START = Path("runs/retrain.json")  # in a worktree: decisions that a resumed run must not make again


@dataclasses.dataclass(frozen=True)
class Batch:
    """A version of the data to train on, in a worktree.

    Attributes:
        version: The data's version.
        worktree: The worktree of the run.
        new_pairs: How many pairs are new.
        champion: The version to start from and to beat; None if there is none.
        key: Names the branch: the data's version if nothing else is stale, else another digest.
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
        """Why it is trained, in words."""
        pairs = [f"{self.new_pairs} new pairs"] if self.new_pairs or not self.stale else []
        return ", ".join([*pairs, *([f"stale: {', '.join(self.stale)}"] if self.stale else [])])


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run: `status` is "nothing new" or "trained"; the other attributes are set as far as it came.

    `failed_guards` names the guards for which the win rate is not to be believed.
    `branch` is the one that was trained on the data, by this run or an earlier one.
    """

    status: str
    why: str
    data_version: str = ""
    branch: str = ""
    new_pairs: int = 0
    serial: int | None = None
    win_rate: float | None = None
    lower_bound: float | None = None
    failed_guards: str = ""
    promoted: bool | None = None
    report: str = ""


def find_batch(repository: Path, minimum: int, prefix: str, asks_origin: bool, also_stale: bool) -> Batch | Result:
    """Return the batch to train, with its worktree ready, or the result that says why there is nothing to do.

    Raises:
        PipelineError: A source, the registry or git failed.
    """
    log = get_run_logger().info
    for abandoned in sorted((repository / workspaces.WORKTREES).glob("look-*")):
        workspaces.remove_worktree(repository, abandoned)  # of a run that died, perhaps at an older commit

    start = git(repository, "rev-parse", "HEAD")
    fresh = workspaces.worktree(repository, f"look-{start[:12]}", start)
    new_data.update_sources(fresh, log)
    version = new_data.data_version(fresh)
    key, stale = _stale(fresh, version) if also_stale else (version.name, ())
    if not version.is_new and not stale:
        workspaces.remove_worktree(repository, fresh)
        more = ", and no stage is stale" if also_stale else ""
        return Result("nothing new", f"the data is that of dvc.lock{more}", version.name)

    if publish.has_branch(repository, branch := f"{prefix}/{key}", asks_origin):
        workspaces.remove_worktree(repository, fresh)
        report = repository.resolve() / REPORTS / key
        kept_report = str(report) if report.is_dir() else ""  # only the machine that trained has it
        return Result("nothing new", f"branch {branch} was trained on it", version.name, branch, report=kept_report)

    # a run that died under this name leaves its checkpoints, and its decisions if they were for this key
    worktree = workspaces.rename_worktree(repository, fresh, f"data-{version.name}" if version.is_new else "stale")
    decided = read_json(worktree / START)
    if decided and decided.get("key", key) == key:
        log("resuming the run that was started for data %s", version.name)
    else:
        known = _known_pairs(repository, worktree, prefix, asks_origin) if version.is_new else None
        decided = _decide(worktree, minimum, key, known)
    if decided["new_pairs"] < minimum and not stale:
        workspaces.remove_worktree(repository, worktree)
        return Result("nothing new", f"{decided['new_pairs']} new pairs, fewer than {minimum}", version.name)
    return Batch(version.name, worktree, decided["new_pairs"], decided["champion"], key, stale)


def _stale(workspace: Path, version: new_data.Version) -> tuple[str, tuple[str, ...]]:
    """Return the key of a run, and the stages that are stale for other reasons than new data.

    New data makes every stage after it stale; then only a change of a stage's code, params or command counts.
    """
    digest, changed = forecast.inputs_besides_data(workspace, new_data.INGEST)
    if not version.is_new:
        changed = tuple(step.stage for step in forecast.forecast(workspace) if step.is_stale)
    return (digest_of(version.name + digest)[: len(version.name)] if changed else version.name), changed


def _decide(worktree: Path, minimum: int, key: str, known: set[str] | None) -> dict[str, Any]:
    """Count the pairs that are not ``known``, look up the champion, and keep both for all runs with this key.

    ``known`` is None if the data is not new.

    Raises:
        PipelineError: The stage `ingest`, whose output holds the pairs, or the registry failed.
    """
    new, champion = 0, None
    if known is not None:
        stage = next(stage for stage in stages_in_order(worktree) if stage.name == new_data.INGEST)
        outcome = stage_run.run(stage, worktree, get_run_logger().info, run_id=str(runtime.flow_run.id or ""))
        if outcome.is_failed:
            raise PipelineError(f"`{stage.name}` failed ({outcome.kind}): {outcome.why}")
        new = len(new_data.pair_ids(worktree) - known)
        champion = registry_commands.champion(worktree) if new >= minimum else None

    decided = {"key": key, "new_pairs": new, "champion": champion}
    write_text(worktree / START, pretty_json(decided))
    return decided


def _known_pairs(repository: Path, worktree: Path, prefix: str, asks_origin: bool) -> set[str]:
    """Return the ids of the pairs in dvc.lock of HEAD and of the unmerged branches, which were trained on."""
    log = get_run_logger().info
    known, seen = new_data.known_pair_ids(worktree, log), {"", new_data.digests_of_pairs(repository, "HEAD")}
    for commit, branch in publish.unmerged(repository, prefix, asks_origin).items():
        if (locked := new_data.digests_of_pairs(repository, commit)) in seen:
            continue
        seen.add(locked)
        checkout = workspaces.worktree(repository, f"look-{commit[:12]}", commit)
        known |= new_data.known_pair_ids(checkout, log, f"the unmerged branch {branch}")
        workspaces.remove_worktree(repository, checkout)
    return known


def deliver(repository: Path, batch: Batch, prefix: str, push: bool) -> Result:
    """Push the cache, commit to the branch, push it, keep the report, and remove the worktree.

    Raises:
        PipelineError: The remote or git failed; what was trained stays in the worktree.
    """
    branch = f"{prefix}/{batch.key}"

    if push:
        publish.push_cache(batch.worktree)
    publish.commit(batch.worktree, commit_message(batch))
    if push and not publish.push_branch(batch.worktree, branch):
        get_run_logger().info("there is no remote `%s`: the branch %s stays here", publish.ORIGIN, branch)
    # after all pushes, since the branch marks the batch as done: a run that dies before delivers again
    git(batch.worktree, "branch", branch)

    kept_report = repository.resolve() / REPORTS / batch.key
    shutil.rmtree(kept_report, ignore_errors=True)
    for folder, name in ((paths.REPORT, ""), (paths.RECEIPTS, "receipts")):
        if (batch.worktree / folder).is_dir():
            shutil.copytree(batch.worktree / folder, kept_report / name, dirs_exist_ok=True)

    entry = read_json(batch.worktree / paths.REGISTER / "registration.json")
    numbers = read_json(batch.worktree / paths.REGISTER / "decision.json").get("numbers", {})
    gate: dict[str, Any] = {"serial": entry.get("serial"), "promoted": bool(entry.get("promoted"))}
    gate |= {key: numbers.get(key) for key in ("win_rate", "lower_bound")}
    judged = read_json(batch.worktree / paths.WINRATE / "metrics.json")
    gate["failed_guards"] = ", ".join(artifacts.failed_guards(judged))
    workspaces.remove_worktree(repository, batch.worktree)
    return Result("trained", batch.why, batch.version, branch, batch.new_pairs, report=str(kept_report), **gate)


def commit_message(batch: Batch) -> str:
    """Return the commit message: what was trained on, the win rates, and the gate's decision."""
    rows = artifacts.win_rates(read_json(batch.worktree / paths.WINRATE / "metrics.json"))
    preposition = "on" if batch.new_pairs or not batch.stale else "what is"
    lines = [f"Retrain {preposition} {batch.why} (data {batch.version})", ""]
    if rows and rows[0]["to be believed"] != "yes":
        lines.append(f"To be believed: {rows[0]['to be believed']}")
    lines += [f"{row['against']}: {row['win rate']:.4f} ({row['low']:.4f} to {row['high']:.4f})" for row in rows]
    return "\n".join([*lines, "", artifacts.evidence(batch.worktree, with_report=False)])
