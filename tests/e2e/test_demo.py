"""The built-in demo, whole: it learns, caches travel, and sabotage is refused."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import GIT, Checkout
from tests.rules.edits import EDITS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def demo(new_checkout: Callable[[str], Checkout]) -> Checkout:
    """A checkout in which the demo has run to its end, with its results pushed to its remote."""
    checkout = new_checkout("demo")
    told = checkout.make("repro").stdout
    assert re.search(r"win rate +0\.\d+ against the reference, 95 % interval", told)
    assert "results/report/report.html" in told
    checkout.commit("results")
    checkout.dvc("push", "--run-cache")
    return checkout


def results(checkout: Checkout, path: str) -> Any:
    """Read one JSON file of a checkout."""
    return json.loads((checkout.folder / path).read_text(encoding="utf-8"))


def stages_run(told: str) -> list[str]:
    """Return the stages that DVC says it ran."""
    return re.findall(r"^Running stage '(\w+)'", told, re.MULTILINE)


def clone(checkout: Checkout, folder: Path) -> Checkout:
    """Clone a checkout and point the clone at the same DVC remote, as another machine would be."""
    checkout.run(*GIT, "clone", "-q", str(checkout.folder), str(folder))
    copy = Checkout(folder)
    copy.dvc("remote", "modify", "--local", "local", "url", str(checkout.folder / "runs/dvc-remote"))
    return copy


def test_the_demo_learns_and_shows_it(demo: Checkout) -> None:
    judged, trained = results(demo, "results/winrate/metrics.json"), results(demo, "results/train/metrics.json")
    assert judged["win_rate"] > 0.8
    assert judged["lower_bound"] > 0.7
    assert judged["control"]["low"] <= 0.5 <= judged["control"]["high"]
    assert trained["before"]["loss"] == pytest.approx(0.6931 + trained["before"]["nll"], abs=1e-4)  # nll_weight: 1.0
    assert trained["after"]["accuracy"] > 0.9
    assert results(demo, "results/register/decision.json")["outcome"] == "promote"


def test_a_second_repro_only_asks_the_registry(demo: Checkout) -> None:
    told = demo.make("repro")
    assert stages_run(told.stdout) == ["register"]
    assert "was recorded before" in told.stderr
    assert demo.run(*GIT, "status", "--porcelain").stdout == ""


def test_metrics_and_plots_show(demo: Checkout, tmp_path: Path) -> None:
    shown = json.loads(demo.dvc("metrics", "show", "--json").stdout)[""]["data"]
    assert set(shown) >= {"data/pairs/metrics.json", "results/train/metrics.json", "results/winrate/metrics.json"}
    assert "results/train/metrics.json" in demo.dvc("metrics", "diff", "HEAD~1", "--json").stdout
    demo.dvc("plots", "show", "-o", str(tmp_path / "plots"))
    assert (tmp_path / "plots/index.html").stat().st_size > 10_000


def test_in_a_fresh_clone_with_the_remote_nothing_runs_but_its_own_registry_gets_the_version(
    demo: Checkout, tmp_path: Path
) -> None:
    copy = clone(demo, tmp_path / "copy")
    copy.dvc("pull")
    assert stages_run(copy.dvc("repro").stdout) == ["register"]
    assert [path.name for path in (copy.folder / "runs/receipts").iterdir()] == ["register.json"]
    held = json.loads(copy.run(sys.executable, "-m", "tasks.registry", "list", "--json").stdout)
    assert [version["digest"] for version in held] == [results(copy, "results/register/registration.json")["version"]]


def test_a_harmless_edit_runs_again_what_it_can_change_and_no_more(demo: Checkout, tmp_path: Path) -> None:
    copy = clone(demo, tmp_path / "edits")
    copy.dvc("pull")
    for edit in EDITS:
        path = copy.folder / edit.file
        before = path.read_bytes()
        path.write_bytes(before + b"# a comment\n")
        plan = json.loads(copy.run(sys.executable, "-m", "flows.plan", "--json", check=False).stdout)
        would_run = {what: tuple(s["stage"] for s in plan if s["forecast"] == what) for what in ("run", "may run")}
        assert (would_run["run"], would_run["may run"]) == (edit.direct, edit.then), edit.file
        path.write_bytes(before)


def test_with_chosen_and_rejected_swapped_the_gate_refuses(demo: Checkout, tmp_path: Path) -> None:
    copy = clone(demo, tmp_path / "sabotage")
    copy.dvc("pull")
    shutil.rmtree(copy.folder / "models/registry", ignore_errors=True)
    columns = {"prompt": "prompt", "chosen": "rejected", "rejected": "chosen", "slice": "slice"}
    copy.set_params(ingest={"columns": columns})
    copy.dvc("repro")
    judged, decision = results(copy, "results/winrate/metrics.json"), results(copy, "results/register/decision.json")
    assert results(copy, "results/train/metrics.json")["after"]["accuracy"] > 0.9  # the loss curve looks fine
    assert judged["win_rate"] < 0.5
    assert decision["outcome"] == "keep"
    assert decision["reasons"]


@pytest.mark.nightly
def test_a_collapse_that_the_loss_hides_is_kept_out(demo: Checkout, tmp_path: Path) -> None:
    copy = clone(demo, tmp_path / "collapse")
    copy.dvc("pull")
    copy.set_params(train={"learning_rate": 1e-2, "objective": {"beta": 0.1}})
    copy.dvc("repro")
    trained, judged = results(copy, "results/train/metrics.json"), results(copy, "results/winrate/metrics.json")
    assert trained["after"]["loss"] < 0.25
    assert trained["after"]["accuracy"] > 0.9
    assert judged["win_rate"] < 0.5
    assert results(copy, "results/register/decision.json")["outcome"] == "keep"
