"""A pipeline that is stopped and killed again and again ends as if nobody had touched it."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.core.files import sha256_file
from tests.e2e.conftest import Checkout
from tests.flows import prefect_server
from tests.flows.conftest import living_in, wait_for
from tests.flows.prefect_server import PrefectServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

KILLS = int(os.environ.get("DPO_KILLS", "6"))
STAGES = ("ingest", "encode", "reference", "train", "respond", "winrate", "report", "register")
OUTPUTS = ("data", "models/adapter", "results")
SMALL: dict[str, dict[str, object]] = {
    "base": {"demo.steps": 40},
    "ingest": {"demo_pairs": 300},
    "runtime": {"checkpoint_every_s": 0.5},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with prefect_server.running(tmp_path_factory.mktemp("server") / "prefect") as running:
        yield running


def test_runs_killed_at_every_stage_and_at_random_moments_end_in_the_same_bytes(
    new_checkout: Callable[[str], Checkout], server: PrefectServer
) -> None:
    calm, killed = new_checkout("calm"), new_checkout("killed")
    for checkout in (calm, killed):
        checkout.set_params(**SMALL)
        checkout.commit("small")
    calm.dvc("repro", "--quiet")
    chance = random.Random(0)
    for kill in range(KILLS):
        number = (signal.SIGTERM, signal.SIGKILL)[kill % 2]
        kill_once(killed.folder, server, STAGES[kill] if kill < len(STAGES) else "", chance.uniform(0, 6), number)
        wait_for(lambda: not living_in(killed.folder), "every process to end", 30)
    done = subprocess.run(command(killed.folder), env=server.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(killed.folder) == contents(calm.folder)
    listed = killed.run(sys.executable, "-m", "tasks.registry", "list", "--json").stdout
    assert listed.count('"digest"') == 1
    assert re.findall(r'"digest": "(\w+)"', listed) == re.findall(
        r'"digest": "(\w+)"', calm.run(sys.executable, "-m", "tasks.registry", "list", "--json").stdout
    )


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "flows.pipeline", "--workspace", str(folder)]


def kill_once(folder: Path, server: PrefectServer, stage: str, wait_s: float, number: signal.Signals) -> None:
    """Start the flow and end it while ``stage`` runs, or ``wait_s`` after its first stage did."""
    log = folder.parent / f"{folder.name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command(folder), env=server.env, stdout=stream, stderr=stream)
    awaited = re.compile(f"Running stage '{stage}'" if stage else "Running stage '|Stage '")
    try:
        wait_for(lambda: process.poll() is not None or awaited.search(log.read_text()), f"stage {stage}", 300)
        time.sleep(wait_s if not stage else wait_s / 4)
        process.send_signal(number)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file that the stages made."""
    found = (path for name in OUTPUTS for path in sorted((folder / name).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): sha256_file(path) for path in found}
