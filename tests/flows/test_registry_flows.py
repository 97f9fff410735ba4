"""Promoting, rolling back and judging anew as runs of a real server: what they do, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.evaluate_only import evaluate_only
from flows.promote import promote
from flows.registry_commands import champion
from flows.rollback import rollback
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.registry import Registry
from tests.flows.conftest import set_param
from tests.registry.samples import sample, scores_of

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def _server(prefect_api: str) -> None:
    """Every test here talks to the one server."""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A checkout whose registry holds a champion and one that the gate kept out."""
    (tmp_path / "params.yaml").write_text("register: {name: demo, root: models/registry}\n")
    registry = Registry(open_store(str(tmp_path / "models/registry")), "demo")
    for number, scores in enumerate((scores_of(90, losses=10), scores_of(10, losses=90))):
        register(registry, *sample(number, scores), "champion", GateConfig())
    return tmp_path


def test_the_gate_refuses_a_person_overrides_and_a_rollback_leads_back(workspace: Path) -> None:
    first = champion(workspace)
    refused = promote("demo@v2", reason="approved in run 7", workspace=workspace, return_state=True)
    assert (refused.name, refused.is_failed()) == ("Refused", True)
    assert champion(workspace) == first
    assert promote("demo@v2", override="a person said so", workspace=workspace, return_state=True).is_completed()
    assert champion(workspace) != first
    back = rollback("demo", "it was worse", leave="demo@v2", workspace=workspace, return_state=True)
    assert back.is_completed(), back.message
    assert champion(workspace) == first
    again = rollback("demo", "it was worse", leave="demo@v2", workspace=workspace, return_state=True)
    assert champion(workspace) == first, again.message


def test_a_version_that_is_not_there_is_one_line(workspace: Path) -> None:
    state = promote("demo@v9", workspace=workspace, return_state=True)
    assert state.is_failed()
    assert state.message is not None
    assert state.message.startswith("registry: `demo@v9` names no version")


def test_without_a_registry_there_is_no_champion(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("register: {name: demo, root: models/registry}\n")
    assert champion(tmp_path) is None


def test_an_adapter_of_other_params_is_not_judged(project: Path) -> None:
    set_param(project, "first", 2)
    state = evaluate_only(project, return_state=True)
    assert state.is_failed()
    assert state.message is not None
    assert state.message.startswith("artifact: `first` is not up to date: first.x: 1 → 2 — run the pipeline")
