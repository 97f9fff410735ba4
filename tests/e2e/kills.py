"""Ends a flow again and again, at named stages and at random moments, as an operator, a scheduler or a fault would."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.flows.conftest import living_in, wait_for
from tests.flows.prefect_server import PrefectServer

KILLS = int(os.environ.get("DPO_KILLS", "6"))  # 8 and more reach every stage
ORDER = ("ingest", "encode", "reference", "train", "respond", "winrate", "report", "register")
STAGES = ("train", "register", "reference", "respond", "encode", "ingest", "winrate", "report")  # the first ones first


def run_killed(folder: Path, server: PrefectServer) -> None:
    """Run the pipeline of ``folder`` to its end, after ``KILLS`` runs of it were ended; nothing of them survives."""
    chance = random.Random(0)
    stages = sorted(STAGES[:KILLS], key=ORDER.index)
    for kill in range(KILLS):
        number = (signal.SIGTERM, signal.SIGKILL)[kill % 2]
        _kill_once(folder, server, stages[kill] if kill < len(stages) else "", chance.uniform(0, 6), number)
        wait_for(lambda: not living_in(folder), "every process to end", 30)
    done = subprocess.run(command(folder), env=server.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "flows.pipeline", "--workspace", str(folder)]


def _kill_once(folder: Path, server: PrefectServer, stage: str, wait_s: float, number: signal.Signals) -> None:
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
