"""Linters, schemas and Prefect's workers, installed from PyPI into an environment of their own."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIST = ROOT / "tests" / "infra" / "tools.txt"


@cache
def installed() -> Path:
    """Return the folder of the programs, after installing them once; skip where that cannot be done."""
    folder, wanted = ROOT / ".venv-infra", LIST.read_text(encoding="utf-8")
    wanted += (ROOT / "infra" / "workers.txt").read_text(encoding="utf-8")
    done = folder / ".installed"
    with (ROOT / ".venv-infra.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done.is_file() and done.read_text(encoding="utf-8") == wanted):
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(folder)],
                [str(folder / "bin/pip"), "install", "--quiet", "-r", str(LIST)],
            ):
                if subprocess.run(command, capture_output=True, timeout=600, check=False).returncode:
                    pytest.skip("the tools cannot be installed from PyPI here (tests/infra/tools.txt)")
            done.write_text(wanted, encoding="utf-8")
    return folder / "bin"


def run(*words: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run one of the programs; fail with what it says, return it otherwise."""
    command = [str(installed() / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
    return done.stdout
