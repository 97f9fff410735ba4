"""A small demo, ended at every stage in every way and at random moments: another checkout has the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import kills
from tests.e2e.conftest import Checkout
from tests.e2e.kills import Kill
from tests.flows import prefect_server

pytestmark = pytest.mark.timeout(3000)

FEW = (
    Kill("SIGTERM", "train", 0.1, kills.STEPS_DONE),
    Kill("cancel", "respond", 1.0),
    Kill("SIGKILL", "register", 0.3),
)


def small(checkout: Checkout) -> Checkout:
    """Make a checkout's demo small."""
    checkout.hasten_base(25)
    checkout.set_params(
        train={"epochs": 1},
        runtime={"log_every_steps": 4, "checkpoint_every_s": 1},
        respond={"max_prompts": 30, "max_new_tokens": 30},
    )
    checkout.commit("A small demo")
    return checkout


@pytest.fixture(scope="module")
def undisturbed(new_checkout: Callable[[str], Checkout]) -> Checkout:
    checkout = small(new_checkout("undisturbed"))
    checkout.dvc("repro", "--quiet")
    return checkout


@pytest.mark.parametrize(
    ("found", "stages", "least"),
    [
        pytest.param(FEW, 3, 3, marks=pytest.mark.e2e, id="some stages"),
        pytest.param([*kills.at_each_stage()], 8, 20, marks=pytest.mark.nightly, id="each stage"),
        pytest.param([*kills.at_random_moments(20, 15)], 3, 12, marks=pytest.mark.nightly, id="random moments"),
    ],
)
def test_runs_that_were_ended_leave_the_same_bytes_and_one_version(
    undisturbed: Checkout,
    new_checkout: Callable[[str], Checkout],
    tmp_path: Path,
    found: Sequence[Kill],
    stages: int,
    least: int,
) -> None:
    other = small(new_checkout("ended"))
    with prefect_server.running(tmp_path / "prefect") as server:
        ended = kills.run_killed(other.folder, server, found)
        anew = [sys.executable, "-m", "flows.evaluate_only", "--workspace", str(undisturbed.folder)]
        judged = subprocess.run(anew, env=server.env, capture_output=True, text=True, timeout=120, check=False)
    assert "Completed('6 unchanged')" in judged.stdout + judged.stderr
    assert len({stage for stage, _ in ended}) >= stages, ended
    assert len(ended) >= least, ended
    assert {ending for _, ending in ended} == {*kills.ENDINGS}
    resumed = kills.RESUMED.findall((server.home / "worker.log").read_text())
    assert len(resumed) >= sum(bool(kill.after) for kill in found), "training goes on from where it was ended"
    assert (other.folder / "dvc.lock").read_text() == (undisturbed.folder / "dvc.lock").read_text()
    digests = [[version["digest"] for version in versions(checkout)] for checkout in (undisturbed, other)]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 1


def versions(checkout: Checkout) -> list[dict[str, Any]]:
    """List what the registry of a checkout holds."""
    return list(json.loads(checkout.run(sys.executable, "-m", "tasks.registry", "list", "--json").stdout))
