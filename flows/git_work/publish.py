"""Hand a run's results on: the cache to the remote, and what git holds of it to a branch, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.dvc_project.new_data import run_dvc
from flows.git_work.workspaces import git
from tasks.core.errors import ConfigError, StorageError

ORIGIN = "origin"
_SOMEBODY = ("-c", "user.name=dpo-pipeline", "-c", "user.email=dpo-pipeline@localhost")


def push_cache(workspace: Path) -> None:
    """Push outputs and run cache to DVC's remote, and see to it that they are there.

    Raises:
        StorageError: Something did not arrive.
        NetworkError: The remote does not answer.
        ConfigError: There is no remote, or DVC refuses.
    """
    run_dvc(workspace, "push", "--quiet", "--run-cache")
    missing: dict[str, Any] = json.loads(run_dvc(workspace, "status", "--cloud", "--json") or "{}")
    if missing:
        first = ", ".join(sorted(missing)[:3])
        raise StorageError(f"{len(missing)} files did not reach the remote, {first} among them", "`dvc push` again")


def commit(workspace: Path, message: str) -> None:
    """Commit dvc.lock, params.yaml and the tracked *.dvc files, whatever else changed.

    Raises:
        ConfigError: git refuses, or nothing of them changed.
    """
    changed = git(workspace, "diff", "--name-only", "HEAD", "--", "dvc.lock", "params.yaml", "*.dvc").splitlines()
    if not changed:
        raise ConfigError(f"the run in {workspace} changed nothing that git holds", "look at `dvc status` there")
    who = () if has_name(workspace) else _SOMEBODY
    git(workspace, *who, "commit", "--quiet", "--message", message, "--only", "--", *changed)


def push_branch(workspace: Path, branch: str) -> bool:
    """Push HEAD as ``branch`` to the repository that this one came from; False where it came from none.

    Raises:
        ConfigError: git refuses.
    """
    if ORIGIN not in git(workspace, "remote").split():
        return False
    git(workspace, "push", "--quiet", ORIGIN, f"HEAD:refs/heads/{branch}")
    return True


def has_branch(repository: Path, branch: str, asks_origin: bool) -> bool:
    """Tell whether ``branch`` is known here, or where branches are pushed to.

    Raises:
        ConfigError: The repository that this one came from does not answer.
    """
    if git(repository, "branch", "--list", branch):
        return True
    has_origin = asks_origin and ORIGIN in git(repository, "remote").split()
    return bool(has_origin and git(repository, "ls-remote", "--heads", ORIGIN, branch))


def unmerged(repository: Path, prefix: str, asks_origin: bool) -> dict[str, str]:
    """Return the commits that branches PREFIX/… stand at and HEAD does not hold, here and at origin, and their names.

    Raises:
        ConfigError: The repository that this one came from does not answer.
    """
    places = [f"refs/heads/{prefix}/"]
    if asks_origin and ORIGIN in git(repository, "remote").split():
        places.append(f"refs/remotes/{ORIGIN}/{prefix}/")
        every = f"+refs/heads/{prefix}/*:{places[-1]}*"
        git(repository, "fetch", "--quiet", "--no-tags", "--prune", ORIGIN, every)
    told = git(repository, "for-each-ref", "--no-merged=HEAD", "--format=%(objectname) %(refname:short)", *places)
    return dict(line.split(" ", 1) for line in told.splitlines())


def has_name(workspace: Path) -> bool:
    """Tell whether git knows who commits."""
    try:
        return bool(git(workspace, "config", "user.email"))
    except ConfigError:
        return False
