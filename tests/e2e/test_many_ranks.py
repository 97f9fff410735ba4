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

LAUNCH = "import sys; from tasks.launch import launcher; sys.exit(launcher.launch('train', 2))"


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


def pid_of_rank(launcher: int, rank: int) -> int:
    """Return the process that a launcher started as ``rank``."""
    for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0"):
            return int(pid)
    raise AssertionError(f"there is no rank {rank}")


def adapter(root: Path) -> dict[str, bytes]:
    return project.contents(root / "models/adapter", root / "results/train")


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_rank_that_is_killed_costs_no_more_than_the_steps_since_the_checkpoint(tmp_path: Path, rank: int) -> None:
    straight, root = (ready(tmp_path / name, pairs=60) for name in ("straight", "project"))
    assert finish(start(straight))[0] == 0
    project.write_params(root, runtime={"checkpoint_every_s": 1e-9})
    process = start(root)
    deadline = time.monotonic() + 200
    while not list((root / "runs/train").glob("*/step-*3")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(pid_of_rank(process.pid, rank), signal.SIGKILL)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert f"[train] rank {rank} was killed by signal 9: starting again from the newest checkpoint" in said
    assert adapter(root) == adapter(straight)
    assert json.loads((root / "runs/receipts/train.json").read_text())["status"] == "ok"


def test_a_rank_that_is_killed_every_time_ends_the_stage(tmp_path: Path) -> None:
    root = ready(tmp_path / "project")
    dying = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    (root / "tasks").mkdir()
    (root / "tasks/train.py").write_text(dying)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {LAUNCH}"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.count("starting again") == 3
    assert "the ranks ended without a receipt" in done.stderr
