"""A Prefect server of the tests' own with all its services, and workers, each a process that a test may end."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tests.flows.conftest import ROOT, wait_for
from tests.ports import free_ports

PREFECT = [sys.executable, "-m", "prefect"]
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


class PrefectServer:
    """A server on loopback: ``env`` leads commands to it, ``post`` asks its API."""

    def __init__(self, home: Path, more: Mapping[str, str] | None = None) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.home = home
        self.env = {
            **os.environ,
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT0.5S",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_WORKER_PREFETCH_SECONDS": "1",
            "NO_COLOR": "1",
            **(more or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again on the database that it left; wait until it answers."""
        self.home.mkdir(exist_ok=True)
        with (self.home / "server.log").open("ab") as log:
            command = [*PREFECT, "server", "start", "--port", str(self.port)]
            self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
        wait_for(self._answers, "the Prefect server", 180)

    def kill(self) -> None:
        """End it as a crash does."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, 9)
            self.process.wait()

    def post(self, path: str, body: Any = None) -> Any:
        """Ask the API."""
        data = json.dumps(body or {}).encode()
        request = Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        deadline = time.monotonic() + 30
        while True:
            try:
                with urlopen(request, timeout=30) as answer:
                    text = answer.read()
            except HTTPError as error:
                if error.code != 503 or time.monotonic() > deadline:  # SQLite was busy
                    raise
                time.sleep(1)
            else:
                return json.loads(text) if text else None

    def deployment(self, name: str) -> dict[str, Any]:
        """Return the deployment `flow/name`."""
        flow, name = name.split("/")
        query = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [name]}}}
        (found,) = self.post("/deployments/filter", query)
        return dict(found)

    def run(self, name: str, **parameters: Any) -> str:
        """Ask for a run of the deployment `flow/name` now; return its id."""
        made = self.post(f"/deployments/{self.deployment(name)['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def runs(self, name: str) -> list[dict[str, Any]]:
        """Return the runs of the deployment `flow/name`."""
        query = {"deployments": {"id": {"any_": [self.deployment(name)["id"]]}}}
        return list(self.post("/flow_runs/filter", query))

    def state(self, run: str) -> dict[str, Any]:
        """Return the state of a flow run."""
        (found,) = self.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return dict(found["state"])

    def wait(self, run: str, seconds: float = 120) -> dict[str, Any]:
        """Wait for a flow run's final state."""
        wait_for(lambda: self.state(run)["type"] in FINAL, f"the end of run {run}", seconds)
        return self.state(run)

    def cancel(self, run: str) -> None:
        """Ask for a flow run's end, as the button of its page does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.post(f"/flow_runs/{run}/set_state", {"state": state, "force": True})

    def pause(self, name: str) -> None:
        """Have the schedule of the deployment `flow/name` start nothing."""
        self.post(f"/deployments/{self.deployment(name)['id']}/pause_deployment")

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a flow run by key."""
        found = self.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact for artifact in found}

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, (self.home / "server.log").read_text()[-3000:]
        with contextlib.suppress(URLError, OSError), urlopen(f"{self.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False


@contextlib.contextmanager
def running(home: Path, more: Mapping[str, str] | None = None) -> Iterator[PrefectServer]:
    """Run a server."""
    server = PrefectServer(home, more)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def working(server: PrefectServer, pool: str = "box") -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of a pool as a box does; it is given time to end its runs."""
    with (server.home / "worker.log").open("ab") as log:
        command = [sys.executable, "-m", "flows.worker", "--pool", pool]
        process = subprocess.Popen(command, cwd=ROOT, env=server.env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=150)  # what compose allows
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def deploy(server: PrefectServer, checkout: Path, **changes: str) -> None:
    """Set a box up as `python -m flows.serve` does, on a copy of the deployments with some words changed."""
    command = [sys.executable, "-m", "flows.serve", "--set-up-only"]
    _must(command, checkout, server.env)
    if not changes:
        return
    text = (ROOT / "infra" / "prefect.yaml").read_text()
    for old, new in changes.items():
        old = old.replace("_", " ")
        assert old in text
        text = text.replace(old, new)
    (server.home / "prefect.yaml").write_text(text)
    command = [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(server.home / "prefect.yaml")]
    _must(command, checkout, {**server.env, "DPO_CHECKOUT": str(checkout)})


def deploy_cloning(server: PrefectServer, repository: Path, pool: str = "box") -> Path:
    """Deploy what works in clones of ``repository`` (infra/prefect-cluster.yaml), in a folder for /checkouts.

    Returns:
        That folder; the script that the image has stands for itself there.
    """
    places = server.home / "checkouts"
    text = (ROOT / "infra" / "prefect-cluster.yaml").read_text()
    text = text.replace("script: checkout", f"script: {ROOT / 'infra' / 'checkout.sh'}")
    (server.home / "prefect-cluster.yaml").write_text(text.replace("/checkouts", str(places)))
    command = [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(server.home / "prefect-cluster.yaml")]
    _must(command, repository, {**server.env, "DPO_WORK_POOL": pool, "DPO_REPOSITORY": str(repository)})
    return places


def _must(command: list[str], cwd: Path, env: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
