"""Workspaces of runs: a checkout, where one run works at a time, or a separate worktree for each run.

A worktree shares DVC's cache and remotes, the row store and the caches of paid judges with its checkout, and nothing
else; a registry in a folder is the main checkout's anyway.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prefect import runtime

from flows.dvc_project.graph import dvc_errors, open_repo
from flows.process_tree.supervisor import end_with_parent
from tasks.core import paths
from tasks.core.errors import StorageError
from tasks.core.params import load_params
from tasks.telemetry.git_calls import git

LOCK = paths.RUNS / "flow.lock"
WORKTREES = paths.RUNS / "worktrees"
_POLL_S = 0.5


@contextlib.contextmanager
def hold_lock(path: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock at ``path``: a second run waits here until the first one ends.

    The lock belongs to the open file, so the system releases it when the process ends, however it ends. A run that a
    worker started ends with its worker: nobody else could cancel it, and the next run resumes from its checkpoint.

    Raises:
        StorageError: The lock cannot be written.
    """
    if runtime.deployment.id:
        end_with_parent()
    try:
        path.parent.mkdir(exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        advice = "name a checkout that exists and can be written to"
        raise StorageError(f"{path} cannot be written: {error.strerror}", advice) from None

    def is_ours() -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    with stream:
        if not is_ours():
            log(f"waiting: process {path.read_text(encoding='utf-8').strip() or '?'} holds {path.resolve()}")
            while not is_ours():
                time.sleep(_POLL_S)  # polling, so that a cancellation is handled soon

        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def params(workspace: Path) -> dict[str, Any]:
    """Return the sections of params.yaml; the stages check their values.

    Raises:
        ConfigError: It is missing or not a YAML mapping.
    """
    sections = load_params(workspace / paths.PARAMS)
    return {name: section for name, section in sections.items() if isinstance(section, dict)}


def worktree(repository: Path, name: str, commit: str) -> Path:
    """Return the worktree ``name`` of ``repository``, created at ``commit`` unless a run that died left it.

    Raises:
        ConfigError: git fails, or DVC cannot read the project.
    """
    repository = repository.resolve()
    folder = repository / WORKTREES / name
    if not _is_whole(folder):
        remove_worktree(repository, folder)
        git(repository, "worktree", "prune")
        # forced twice: git locks a worktree while it makes it, and a killed git leaves the lock
        git(repository, "worktree", "add", "--force", "--force", "--quiet", "--detach", str(folder), commit)

    _share_dvc(repository, folder)
    row_store = str(params(repository).get("runtime", {}).get("row_store") or "")
    if row_store and "://" not in row_store and not Path(row_store).is_absolute():
        _share(repository, folder, row_store)
    _share(repository, folder, str(paths.JUDGE))
    return folder


def _share(repository: Path, folder: Path, place: str) -> None:
    """Link a folder of the checkout into a worktree."""
    target, link = repository / place, folder / place
    target.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target, target_is_directory=True)


def rename_worktree(repository: Path, folder: Path, name: str) -> Path:
    """Rename a worktree, and take over runs/ (checkpoints, receipts) of a run that died under the new name.

    The code stays that of ``folder``; outputs are restored from the cache.
    """
    target = repository.resolve() / WORKTREES / name
    if (earlier_runs := target / paths.RUNS).is_dir():
        shutil.rmtree(folder / paths.RUNS, ignore_errors=True)
        earlier_runs.rename(folder / paths.RUNS)
    remove_worktree(repository, target)
    git(repository.resolve(), "worktree", "move", "--force", "--force", str(folder), str(target))
    return target


def remove_worktree(repository: Path, folder: Path) -> None:
    """Remove a worktree, whole or half removed; shared folders stay."""
    if _is_whole(folder):
        git(repository.resolve(), "worktree", "remove", "--force", str(folder))
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Tell whether git made this worktree completely (till then it is locked) and has not begun to remove it."""
    if not (link := folder / ".git").is_file():
        return False
    place = folder / link.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    return place.is_dir() and not (place / "locked").exists()


def _share_dvc(repository: Path, folder: Path) -> None:
    """Configure a worktree to use the cache and the remotes of its checkout, whose relative paths would not fit."""
    from dvc.config import Config

    with dvc_errors(repository):
        repo = open_repo(repository)
    # as DVC itself reads the user's file: its paths become absolute, and no section is written twice
    local = repo.config.load_one("local")
    local["cache"]["dir"] = str(repo.cache.local_cache_dir)
    for name, remote in repo.config["remote"].items():
        if "://" not in (url := str(remote["url"])):
            local["remote"].setdefault(name, {})["url"] = url
    (folder / ".dvc" / "config.local").unlink(missing_ok=True)
    with Config(str(folder / ".dvc"), validate=False).edit("local", validate=False) as settings:
        settings.update(local)
