"""Prefect's page in a real browser: a run shows its stages and what they found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.flows import prefect_server
from tests.flows.conftest import set_param
from tests.flows.prefect_server import deploy, working

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=20000"),
]


def read(url: str, profile: Path) -> str:
    """Return what the page at ``url`` holds once it has been drawn."""
    browser = shutil.which("chromium") or pytest.skip("chromium is not installed")
    command = [browser, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def test_a_runs_page_shows_its_stages_and_artifacts(project: Path, tmp_path: Path) -> None:
    set_param(project, "middle", 2)
    with prefect_server.running(tmp_path / "prefect") as server:
        deploy(server, project)
        with working(server):
            run = server.run("pipeline/nightly")
            assert server.wait(run)["message"] == "1 unchanged, 2 ran"
        pages = f"http://127.0.0.1:{server.port}"
        shown = read(f"{pages}/runs/flow-run/{run}", tmp_path / "one")
        for words in ("pipeline ", "Completed", "Task runs", "Artifacts"):
            assert words in shown, words
        table = server.artifacts(run)["pipeline"]
        shown = read(f"{pages}/artifacts/artifact/{table['id']}", tmp_path / "two")
        for words in ("The outcome of each stage", "middle.x: 1 → 2", "out/middle changed"):
            assert words in shown, words
