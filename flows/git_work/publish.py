"""Publish the results of a run: the cache to DVC's remote, and the files that git tracks to a branch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flows.dvc_project.new_data import run_dvc
from tasks.core.errors import ConfigError, StorageError
from tasks.telemetry.git_calls import git, git_or_none

ORIGIN = "origin"
_COMMITTER = ("-c", "user.name=dpo-pipeline", "-c", "user.email=dpo-pipeline@localhost")


def push_cache(workspace: Path) -> None:
    """Push outputs and run cache to DVC's remote, and check that they arrived.

    Raises:
        StorageError: A file did not arrive.
        NetworkError: The remote does not answer.
        ConfigError: There is no remote, or DVC fails.
    """
    run_dvc(workspace, "push", "--quiet", "--run-cache")
    missing: dict[str, Any] = json.loads(run_dvc(workspace, "status", "--cloud", "--json") or "{}")
    if missing:
        first = ", ".join(sorted(missing)[:3])
        raise StorageError(f"{len(missing)} files did not reach the remote, {first} among them", "`dvc push` again")


def commit(workspace: Path, message: str) -> None:
    """Commit dvc.lock, params.yaml and the tracked *.dvc files, and no other file.

    Raises:
        ConfigError: git fails, or none of them changed.
    """
    changed = git(workspace, "diff", "--name-only", "HEAD", "--", "dvc.lock", "params.yaml", "*.dvc").splitlines()
    if not changed:
        raise ConfigError(f"the run in {workspace} changed no file that git tracks", "look at `dvc status` there")
    committer = () if git_or_none(workspace, "config", "user.email") else _COMMITTER
    git(workspace, *committer, "commit", "--quiet", "--message", message, "--only", "--", *changed)


def push_branch(workspace: Path, branch: str) -> bool:
    """Push HEAD as ``branch`` to the remote `origin`; return False without such a remote.

    Raises:
        ConfigError: git fails.
    """
    if ORIGIN not in git(workspace, "remote").split():
        return False
    git(workspace, "push", "--quiet", ORIGIN, f"HEAD:refs/heads/{branch}")
    return True


def has_branch(repository: Path, branch: str, asks_origin: bool) -> bool:
    """Tell whether ``branch`` exists here or, with ``asks_origin``, in the remote `origin`.

    Raises:
        ConfigError: The remote does not answer.
    """
    if git(repository, "branch", "--list", branch):
        return True
    has_origin = asks_origin and ORIGIN in git(repository, "remote").split()
    return bool(has_origin and git(repository, "ls-remote", "--heads", ORIGIN, branch))


def unmerged(repository: Path, prefix: str, asks_origin: bool) -> dict[str, str]:
    """Return the branches PREFIX/… that are not merged into HEAD, here and at origin: name by commit.

    Raises:
        ConfigError: The remote does not answer.
    """
    patterns = [f"refs/heads/{prefix}/"]
    if asks_origin and ORIGIN in git(repository, "remote").split():
        patterns.append(f"refs/remotes/{ORIGIN}/{prefix}/")
        refspec = f"+refs/heads/{prefix}/*:{patterns[-1]}*"
        git(repository, "fetch", "--quiet", "--no-tags", "--prune", ORIGIN, refspec)
    refs = git(repository, "for-each-ref", "--no-merged=HEAD", "--format=%(objectname) %(refname:short)", *patterns)
    return dict(line.split(" ", 1) for line in refs.splitlines())
