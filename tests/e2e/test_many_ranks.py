"""A stage that starts its own ranks ends as its work did: refused, stopped or done, in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.stages import project
from tests.stages.test_train import ready

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LAUNCH = "import sys; from tasks.core import ranks; sys.exit(ranks.launch('train', 2))"


def start(root: Path) -> subprocess.Popen[str]:
    """Start two ranks of the train stage in the project."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LAUNCH]
    return subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Wait for the end; return exit code and the lines that tell of an error, tracebacks included."""
    said = process.communicate(timeout=300)[1]
    return process.returncode, [line for line in said.splitlines() if "error" in line.lower() or "Traceback" in line]


def test_ranks_that_are_refused_stopped_and_left_alone(tmp_path: Path) -> None:
    root = ready(tmp_path / "project", pairs=60)
    tokens = root / "data/tokens/train.ids.npy"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-4])
    code, told = finish(start(root))
    assert code == 1
    assert len(told) == 1
    assert told[0].startswith("[train] error: data/tokens/train.ids.npy")
    tokens.write_bytes(whole)

    project.write_params(root, runtime={"checkpoint_every_s": 1e-9})
    process = start(root)
    deadline = time.monotonic() + 200
    while not list((root / "runs/train").glob("*/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, told = finish(process)
    assert code == 75
    assert len(told) == 1
    assert "told to stop after step" in told[0]
    assert json.loads((root / "runs/receipts/train.json").read_text())["status"] == "preempted"

    project.write_params(root)
    code, told = finish(start(root))
    assert (code, told) == (0, [])
    assert (root / "models/adapter/adapter_model.safetensors").is_file()
