"""Prefect on PostgreSQL: scheduled runs appear, and a worker runs one in the checkout and one in a clone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows import postgresql
from tests.flows.conftest import git, set_param, wait_for
from tests.flows.prefect_server import deploy, deploy_cloning, running, working

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_deployments_are_scheduled_and_run_on_postgresql(project: Path, tmp_path: Path) -> None:
    with (
        postgresql.running() as address,
        running(tmp_path / "prefect", {"PREFECT_API_DATABASE_CONNECTION_URL": address}) as server,
    ):
        deploy(server, project)
        wait_for(lambda: server.runs("pipeline/nightly"), "scheduled runs", 90)
        set_param(project, "middle", 7)
        with working(server):
            assert server.wait(server.run("pipeline/nightly"))["message"] == "1 unchanged, 2 ran"
            git(project, "branch", "--force", "main")  # what a clone gets: without outputs, without a remote
            places = deploy_cloning(server, project)
            assert server.wait(server.run("pipeline/nightly-cluster"))["message"] == "3 ran"
            assert [path.name for path in places.iterdir() if path.is_dir()] == ["dpo-pipeline"]
            again = server.wait(server.run("pipeline/nightly-cluster"))["message"]
            assert again == "3 unchanged", "the clone stays, with what was computed in it"
