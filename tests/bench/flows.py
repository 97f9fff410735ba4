"""What orchestration costs where nothing has to run: `dvc repro`, the flow over the same stages, and the plan.

All in this checkout, up to date. The flow talks to a server of its own that is started before, so its start counts
in none of them; Prefect's import and the start of Python count in the flow. The smallest of the rounds stands.

run as: python -m tests.bench.flows [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from flows.dvc_project.graph import stages_in_order
from tests.conftest import ROOT
from tests.flows import prefect_server

RESULT = Path(__file__).parent / "results" / "flows-cpu.json"
ARMS = {
    "dvc_repro": ["-m", "dvc", "repro", "--quiet"],
    "flow": ["-m", "flows.pipeline"],
    "plan": ["-m", "flows.plan"],
}


def seconds(words: list[str], env: dict[str, str]) -> float:
    """Return how long a command takes; it must end well."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, env=env, check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    """Measure in turns, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as folder, prefect_server.running(Path(folder) / "prefect") as server:
        env = {**server.env, "PATH": path}
        taken = [{name: seconds(words, env) for name, words in ARMS.items()} for _ in range(rounds)]
    best = {name: min(round_[name] for round_ in taken) for name in ARMS}
    stages = len(stages_in_order(ROOT))
    found = {
        "machine": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in ("prefect", "dvc", "fastapi")},
        "stages": stages,
        "seconds": best,
        "rounds": taken,
        "added_s_a_stage": (best["flow"] - best["dvc_repro"]) / stages,
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
