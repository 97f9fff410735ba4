"""What a stage says when it is not simply run: its help, an argument that it does not know, another Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.rules.source import STAGES


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("stage", ["ingest", "reference"])
def test_help_prints_what_the_stage_reads_and_writes_and_runs_nothing(tmp_path: Path, stage: str) -> None:
    done = run(tmp_path, "-m", f"tasks.{stage}", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(word in done.stdout for word in ("reads:", "writes:", "params:", f"python -m tasks.{stage}"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["ingest", "reference"])
def test_an_argument_is_refused_in_one_line(tmp_path: Path, stage: str) -> None:
    done = run(tmp_path, "-m", f"tasks.{stage}", "--force")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"[{stage}] error: unknown argument `--force` — its params are in params.yaml")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", [*(f"tasks.{stage}" for stage in STAGES), "flows.plan", "flows.pipeline"])
def test_a_python_without_the_packages_is_refused_in_one_line(module: str) -> None:
    done = run(ROOT, "-S", "-m", module)  # -S: no site-packages
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"[tasks] error: this python ({sys.executable}) has no numpy, ruamel, torch")
    assert "run `source .venv/bin/activate` first, or build the environment with `make env`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_older_python_is_refused_in_one_line() -> None:
    done = run(ROOT, "-c", "import sys; sys.version_info = (3, 10, 4); sys.argv[0] = '-m'; import tasks")
    assert done.returncode == 1
    assert "is Python 3.10, older than 3.11 — run `source .venv/bin/activate`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_program_that_imports_the_project_is_not_ended() -> None:
    done = run(ROOT, "-S", "-c", "import tasks; print('still here')")
    assert (done.returncode, done.stdout) == (0, "still here\n"), done.stderr
