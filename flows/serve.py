"""Run the deployments on a single box: set up work pool, GPU limit and deployments, then become their worker.

    prefect server start --background    # or point PREFECT_API_URL to the team's server
    python -m flows.serve                # in the checkout

run as: python -m flows.serve [--gpus N] [--set-up-only]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL

from flows import liveness
from flows.dvc_project.stage_run import environment
from flows.prefect_ui import automations

POOL, LIMIT = "box", "gpu"
DEPLOYMENTS = Path(__file__).resolve().parents[1] / "infra" / "prefect.yaml"
_ADVICE = "start one with `prefect server start --background`, or set PREFECT_API_URL to the team's"


def main() -> int:
    """Set up, then become the worker; return only with `--set-up-only`, or the exit code 1 after a fault."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description="Set up this box and start its worker.")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="stages on a GPU that may run at once (1)")
    parser.add_argument("--set-up-only", action="store_true", help="set up, and start no worker")
    arguments = parser.parse_args()

    with automations.server(_ADVICE) as client:
        if client is None:
            return 1
        set_up(client, arguments.gpus)
        settings = {**environment(), "PREFECT_API_URL": str(PREFECT_API_URL.value()), "DPO_CHECKOUT": str(Path.cwd())}

    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    if subprocess.run(command, env=settings, check=False).returncode:
        print(f"error: {DEPLOYMENTS} could not be deployed — see above", file=sys.stderr)
        return 1
    if not arguments.set_up_only:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "flows.worker", "--pool", POOL], settings)
    return 0


def set_up(client: SyncPrefectClient, gpus: int) -> None:
    """Create the work pool, the limit on stages on a GPU, and the automation that marks silent runs crashed."""
    client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)
    client.upsert_global_concurrency_limit_by_name(LIMIT, gpus)
    automations.put(client, liveness.automation())


if __name__ == "__main__":
    sys.exit(main())
