"""A tiny DVC project of three stages, and a Prefect server for the tests that need one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import DVC_CONFIG

ROOT = Path(__file__).resolve().parents[2]

STAGE = '''
"""A stage: copies its inputs and its parameter, or does what `mood/<name>` tells it (once)."""
import json, os, pathlib, signal, subprocess, sys, time

name, *inputs = sys.argv[1:]
mood = pathlib.Path("mood") / name
orders = mood.read_text().split() if mood.exists() else []
receipt = pathlib.Path("runs/receipts") / f"{name}.json"
receipt.parent.mkdir(parents=True, exist_ok=True)


def leave(status, error, code):
    receipt.write_text(json.dumps({"stage": name, "status": status, "error": error, "at": time.time(),
                                   "run": os.environ.get("DPO_RUN")}))
    sys.exit(code)


print(f"{name} starts")
if orders and orders[0] == "fail":
    mood.unlink()
    leave(orders[1], f"SomeError: the {orders[1]} is in the way", 1)
if orders and orders[0] == "exit":
    sys.exit(int(orders[1]))
if orders and orders[0] == "train":
    subprocess.Popen(["sleep", "600"])
    try:
        print("training", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        print("writing the checkpoint", file=sys.stderr, flush=True)
        time.sleep(0.5)
        print("checkpoint written", file=sys.stderr, flush=True)
        pathlib.Path("checkpoint").touch()
        leave("interrupted", None, 130)
out = pathlib.Path("out") / name
out.mkdir(parents=True, exist_ok=True)
params = next(line for line in open("params.yaml") if line.startswith(name))
(out / "data.txt").write_text(params + "".join(pathlib.Path(path).read_text() for path in inputs))
'''

DVC_YAML = """
stages:
  last:
    cmd: python stage.py last out/middle/data.txt
    deps: [stage.py, out/middle]
    params: [last]
    outs: [out/last]
  first:
    cmd: python stage.py first
    deps: [stage.py]
    params: [first]
    outs: [out/first]
  middle:
    cmd: python stage.py middle out/first/data.txt
    deps: [stage.py, out/first]
    params: [middle]
    outs: [out/middle]
"""


def git(folder: Path, *words: str) -> None:
    """Run git in ``folder`` as somebody."""
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def dvc(folder: Path, *words: str) -> None:
    """Run this environment's DVC in ``folder``, with its python first on the path."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=folder, check=True, capture_output=True, env=env)


@pytest.fixture(scope="session")
def built_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after one whole run, with its remote beside it; only to be copied."""
    folder = tmp_path_factory.mktemp("built") / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc" / "config").write_text(DVC_CONFIG)
    (folder / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n")
    (folder / ".gitignore").write_text("/out/\n/runs/\n/mood/\n")
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(DVC_YAML)
    (folder / "params.yaml").write_text("first: {x: 1}\nmiddle: {x: 1}\nlast: {x: 1}\n")
    git(folder, "init", "--quiet")
    dvc(folder, "repro", "--quiet")
    dvc(folder, "push", "--quiet", "--run-cache")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "One whole run")
    return folder


@pytest.fixture
def project(built_project: Path, tmp_path: Path) -> Path:
    """A copy of the built project, up to date, with a remote of its own."""
    shutil.copytree(built_project.parent, tmp_path / "work", symlinks=True)
    return tmp_path / "work" / "project"


@pytest.fixture
def clone(project: Path) -> Path:
    """A fresh clone of the project: no outputs, no cache, and a remote that holds them."""
    folder = project.parent / "clone"
    git(project.parent, "clone", "--quiet", str(project), str(folder))
    return folder


def tell(folder: Path, stage: str, orders: str) -> None:
    """Tell a stage of the tiny project how to behave."""
    (folder / "mood").mkdir(exist_ok=True)
    (folder / "mood" / stage).write_text(orders)


def set_param(folder: Path, stage: str, value: int) -> None:
    """Change the parameter of one stage of the tiny project."""
    lines = (folder / "params.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(stage)]
    (folder / "params.yaml").write_text("\n".join([*kept, f"{stage}: {{x: {value}}}"]) + "\n")


def living_in(folder: Path) -> list[str]:
    """Return the command lines of the living processes that work in ``folder``."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_there = (process / "cwd").readlink().is_relative_to(folder)
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        if is_there and words and int(process.name) != os.getpid():
            found.append(f"{process.name}: {words}")
    return found


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait until ``condition`` holds; fail by name when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """The URL of a Prefect server of the tests' own, on SQLite, started once."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())
