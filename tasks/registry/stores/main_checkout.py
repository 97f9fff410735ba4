"""The main checkout of a git worktree or of an experiment of DVC: there is one registry for all of them."""

from __future__ import annotations

import os
from pathlib import Path


def experiment() -> str:
    """Return the name of the experiment (`dvc exp run`, also with `--temp` or `--queue`) that runs this process."""
    return os.environ.get("DVC_EXP_NAME", "")


def main_checkout() -> Path:
    """Return the project's folder in the main checkout, absolute.

    In an experiment that is the project which started it, wherever DVC put the experiment's files; in a git worktree
    the same folder of the main working tree. A worktree of a bare repository has none, and stands for itself.
    """
    project = Path(os.environ.get("DVC_ROOT", "") if experiment() else "").resolve()
    top = next((folder for folder in (project, *project.parents) if (folder / ".git").exists()), project)
    if not (top / ".git").is_file():
        return project

    git_folder = top / (top / ".git").read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    if not (pointer := git_folder / "commondir").is_file():
        return project  # a submodule, or a git folder elsewhere
    common = (git_folder / pointer.read_text(encoding="utf-8").strip()).resolve()
    return common.parent / project.relative_to(top) if common.name == ".git" else project
