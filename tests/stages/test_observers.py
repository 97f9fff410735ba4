"""Modules that only tell are no dependency of a stage: without their code it writes the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.stages import project

WRITTEN = ("base", "pairs", "tokens", "adapters", "reference", "responses")


def run(folder: Path, how: str) -> dict[str, bytes]:
    """Run the stages from the base to the answers in ``folder``; return all that they wrote but receipts."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.stages.observers_script", str(folder), how]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip() == {"with": "observers", "without": "stand-ins"}[how]
    folders = [folder / "data" / name for name in WRITTEN]
    return project.contents(*folders, folder / "models/adapter", folder / "results/train")


def test_without_what_only_tells_every_stage_writes_the_same_bytes(tmp_path: Path) -> None:
    told, silent = run(tmp_path / "with", "with"), run(tmp_path / "without", "without")
    assert {"responses/responses.jsonl", "adapter/adapter_model.safetensors", "tokens/metrics.json"} <= set(told)
    assert [name for name in told | silent if told.get(name) != silent.get(name)] == []
