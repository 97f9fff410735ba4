"""What closes a run says of a version what the registry says, whatever results/register claims."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flows.dvc_project.forecast import Step
from flows.plan import summary
from flows.prefect_ui.artifacts import evidence
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.stores.folder import FolderStore
from tasks.registry.versions.registry import Registry
from tasks.telemetry import summary as closing
from tasks.telemetry.registration import look_up
from tests.registry.samples import sample, scores_of


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose registry holds what its results/register names, and the metrics of the other stages."""
    (tmp_path / "params.yaml").write_text("register: {name: demo, root: models/registry}\n")
    candidate, of_it = sample(0, scores_of(80, losses=20))
    register(Registry(FolderStore(tmp_path / "models/registry"), "demo"), candidate, of_it, "champion", GateConfig())
    claim = {"name": "demo", "version": candidate.digest, "serial": 7, "alias": "champion", "promoted": True}
    files = {
        "results/register/registration.json": claim | {"outcome": "promote"},
        "results/register/decision.json": {"reasons": ["it is better"]},
        "data/pairs/metrics.json": {"rows_read": 9, "left_out": {}, "pairs": {"train": 6, "test": 3}},
        "results/train/metrics.json": {side: {"accuracy": 0.5, "margin": 0.0} for side in ("before", "after")},
        "results/winrate/metrics.json": {"win_rate": 0.8, "low": 0.7, "high": 0.9, "prompts": 100},
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_the_registrys_own_serial_and_aliases_are_shown(checkout: Path) -> None:
    version = look_up(checkout)
    assert version is not None
    assert (version.serial, version.aliases, version.outcome, version.fault) == (1, ("champion",), "promote", "")
    assert dict(closing.lines(checkout))["registry"] == f"demo v1 ({version.digest[:12]}), promoted to champion"
    assert f"- **Show it**: `python -m tasks.registry show demo@{version.digest[:12]}`" in evidence(checkout)


def test_a_claim_that_no_registry_holds_is_called_one_and_no_command_is_advised_that_would_fail(checkout: Path) -> None:
    shutil.rmtree(checkout / "models/registry")
    shown = dict(closing.lines(checkout))["registry"]
    assert " is not registered: there is no registry in models/registry" in shown
    assert "promoted" not in shown
    assert "**Show it**" not in evidence(checkout)


def test_without_results_of_the_stage_there_is_nothing_to_look_up(checkout: Path) -> None:
    shutil.rmtree(checkout / "results/register")
    assert look_up(checkout) is None
    assert dict(closing.lines(checkout))["registry"] == "results/register is not here"


def test_the_plan_says_what_the_registry_lacks_and_that_the_lock_matches_all_the_same() -> None:
    steps = (Step("report", "unchanged", ""), Step("register", "ask", "demo 0123 is not registered"))
    assert summary(steps).startswith("nothing would run: dvc.lock matches")
    assert summary(steps).endswith("; register: demo 0123 is not registered")
