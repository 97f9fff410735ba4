"""Where runs work: one at a time in a checkout, and worktrees of their own for those that must not meet.

A worktree shares with its checkout what may be shared: DVC's cache and remotes, the row store, and a registry that
is a folder. What a run writes stays its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prefect import runtime

from flows.process_tree.supervisor import end_with_parent
from tasks.core import paths
from tasks.core.errors import ConfigError, StorageError
from tasks.core.params import load_params

LOCK = paths.RUNS / "flow.lock"
WORKTREES = paths.RUNS / "worktrees"
SHARED = (("runtime", "row_store"), ("register", "root"))  # params that may name a folder which all may use
_POLL_S = 0.5


@contextlib.contextmanager
def held(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock at ``path``: a second run waits here until the first one is done, or gone.

    The lock is the open file's, so it falls with the process that holds it, however that ends. A run that a worker
    started ends with its worker: nobody else could cancel it, and the next run goes on from its checkpoint.

    Raises:
        StorageError: The lock cannot be written.
    """
    if runtime.deployment.id:
        end_with_parent()
    try:
        path.parent.mkdir(exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        advice = "name a checkout that is there and may be written to"
        raise StorageError(f"{path} cannot be written: {error.strerror}", advice) from None
    with stream:
        _wait(stream.fileno(), path, say)
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def _wait(descriptor: int, path: Path, say: Callable[[str], None]) -> None:
    """Wait for the lock; in short naps, so that a cancellation is heard."""
    has_said = False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if not has_said:
            say(f"waiting: process {path.read_text(encoding='utf-8').strip() or '?'} holds {path.resolve()}")
            has_said = True
        time.sleep(_POLL_S)


def params(workspace: Path) -> dict[str, Any]:
    """Return what params.yaml says; the stages judge whether it makes sense.

    Raises:
        ConfigError: It is missing or is no YAML mapping.
    """
    found = load_params(workspace / paths.PARAMS)
    return {name: section for name, section in found.items() if isinstance(section, dict)}


def git(folder: Path, *words: str) -> str:
    """Run git in ``folder`` and return what it printed.

    Raises:
        ConfigError: It failed; the message is its last line.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder", "name a checkout that is there")
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise ConfigError(f"`git {' '.join(words[:2])}` in {folder} failed: {said[0]}", "see what git says there")
    return done.stdout.strip()


def worktree(repository: Path, name: str, commit: str) -> Path:
    """Return a worktree of ``repository`` for ``name`` that starts at ``commit``; one left by a run that died goes on.

    Raises:
        ConfigError: git refuses, or DVC cannot read the project.
    """
    repository = repository.resolve()
    folder = repository / WORKTREES / name
    if not _is_whole(folder):
        give_up(repository, folder)
        git(repository, "worktree", "prune")
        # forced twice: git keeps the place of one that it was killed over
        git(repository, "worktree", "add", "--force", "--force", "--quiet", "--detach", str(folder), commit)
    _share_dvc(repository, folder)
    for section, key in SHARED:
        place = str(params(repository).get(section, {}).get(key) or "")
        if place and "://" not in place and not Path(place).is_absolute():
            _link(repository / place, folder / place)
    return folder


def moved(repository: Path, folder: Path, name: str) -> Path:
    """Give a worktree another name, and what a run that died under that name left in runs/: checkpoints, receipts.

    The code is that of ``folder``; outputs that stand in the cache come from there.
    """
    target = repository.resolve() / WORKTREES / name
    if (left := target / paths.RUNS).is_dir():
        shutil.rmtree(folder / paths.RUNS, ignore_errors=True)
        left.rename(folder / paths.RUNS)
    give_up(repository, target)
    git(repository.resolve(), "worktree", "move", "--force", "--force", str(folder), str(target))
    return target


def give_up(repository: Path, folder: Path) -> None:
    """Remove a worktree, or what is left of one; what it shared stays."""
    if _is_whole(folder):
        git(repository.resolve(), "worktree", "remove", "--force", str(folder))
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """Tell whether there is a worktree that git neither was killed making (it is locked till then) nor removing."""
    if not (link := folder / ".git").is_file():
        return False
    place = folder / link.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    return place.is_dir() and not (place / "locked").exists()


def _share_dvc(repository: Path, folder: Path) -> None:
    """Lead a worktree to the cache and the remotes of its checkout; relative addresses there are not its own."""
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(repository))
    except DvcException as error:
        raise ConfigError(f"DVC cannot read {repository}: {error}", "`dvc status` shows where") from error
    # DVC's own reading of the user's file: paths in it are whole, and no section can stand there twice
    local = repo.config.load_one("local")
    local["cache"]["dir"] = str(repo.cache.local_cache_dir)
    for name, remote in repo.config["remote"].items():
        if "://" not in (url := str(remote["url"])):
            local["remote"].setdefault(name, {})["url"] = url
    (folder / ".dvc" / "config.local").unlink(missing_ok=True)
    with Config(str(folder / ".dvc"), validate=False).edit("local", validate=False) as settings:
        settings.update(local)


def _link(target: Path, link: Path) -> None:
    """Let ``link`` lead to the folder ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target, target_is_directory=True)
