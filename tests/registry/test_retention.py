"""Retention: what an alias, a rollback, a young entry or a child needs stays; the rest goes, the log first."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator

import pytest

from tasks.core.errors import RegistryError
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release import retention
from tasks.registry.release.release import promote, register, rollback
from tasks.registry.stores.store import Store
from tasks.registry.versions.manifest import LINEAGE, Candidate
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample, scores_of

EVEN = scores_of(30, losses=30)
NOW = datetime.datetime.now(datetime.UTC)
LATER = NOW + datetime.timedelta(days=100)


def release(registry: Registry, seed: int, parent: str | None = None, by: str = "demo") -> str:
    candidate, evidence = sample(seed, EVEN)
    if parent:
        lineage = json.loads(candidate.files[LINEAGE]) | {"parent": {"name": by, "digest": parent}}
        candidate = Candidate(candidate.identity, {**candidate.files, LINEAGE: json.dumps(lineage).encode()})
    return register(registry, candidate, evidence, "champion", GateConfig()).digest


pytestmark = pytest.mark.parametrize("store", ["folder", pytest.param("bucket", marks=pytest.mark.e2e)], indirect=True)


@pytest.fixture
def line(store: Store) -> tuple[Registry, list[str]]:
    """Six versions: 1 and 2 were champions before, 3 is one now, and was trained from 0; 4 is nobody's, 5 neither."""
    registry = Registry(store, "demo")
    digests = [release(registry, 0)]
    digests += [release(registry, seed, digests[0] if seed == 3 else None) for seed in range(1, 6)]
    for digest in digests[1:4]:
        promote(registry, digest, "champion", override="in turn")
    return registry, digests


def test_what_anything_needs_is_kept_and_the_rest_is_given_up(line: tuple[Registry, list[str]]):
    registry, digests = line
    found = retention.plan([registry], 90, LATER)["demo"]
    assert found.kept == {
        digests[3]: "`champion` points to it",
        digests[2]: "a rollback of `champion` leads to it",
        digests[0]: f"demo {digests[3][:12]} was trained from it",
    }
    assert found.given_up == [digests[1], digests[4], digests[5]]
    young = retention.plan([registry], 90, NOW)["demo"]
    assert young.given_up == []
    assert young.kept[digests[4]] == "register 0 days ago"


def test_a_child_of_another_name_keeps_its_parent(line: tuple[Registry, list[str]]):
    registry, digests = line
    other = Registry(registry.store, "other")
    child = release(other, 9, digests[4])
    promote(other, child, "champion", override="a start")
    plans = retention.plan([registry, other], 90, LATER)
    assert plans["demo"].kept[digests[4]] == f"other {child[:12]} was trained from it"
    assert plans["demo"].given_up == [digests[1], digests[5]]


def test_a_sweep_removes_what_was_given_up_and_nothing_else(line: tuple[Registry, list[str]]):
    registry, digests = line
    plan = retention.plan([registry], 90, LATER)["demo"]
    kept = {key for digest in plan.kept for key in registry.store.ages(f"demo/versions/{digest}")}
    removed = retention.sweep(registry, plan)
    assert all(key.split("/")[2] in plan.given_up for key in removed)
    assert set(registry.store.ages("demo/versions")) == kept
    fresh = Registry(registry.store, "demo")
    assert fresh.digests() == [digest for digest in digests if digest in plan.kept]
    assert [fresh.history().serials()[digest] for digest in digests] == [1, 2, 3, 4, 5, 6], "serials never change"
    for digest in fresh.digests():
        fresh.check(digest)
    fresh.log.check()
    with pytest.raises(RegistryError, match="names no version"):
        fresh.find(digests[4])
    with pytest.raises(RegistryError, match="has no version"):
        fresh.read(digests[4])
    again = retention.plan([fresh], 90, LATER)["demo"]
    assert (again.given_up, again.leftovers) == ([], [])


def test_a_version_that_was_given_up_can_be_registered_again(line: tuple[Registry, list[str]]):
    registry, digests = line
    retention.sweep(registry, retention.plan([registry], 90, LATER)["demo"])
    with pytest.raises(RegistryError, match="has no version"):
        promote(registry, digests[4], "champion", override="after all")
    assert release(registry, 4) == digests[4]
    assert registry.history().serials()[digests[4]] == 5
    registry.check(digests[4])
    promote(registry, digests[4], "champion", override="after all")
    assert registry.find("v5") == digests[4]


def test_a_rollback_to_what_is_no_longer_kept_is_refused(line: tuple[Registry, list[str]]):
    registry, digests = line
    retention.sweep(registry, retention.plan([registry], 90, LATER)["demo"])
    assert rollback(registry, "champion") == (digests[3], digests[2])
    with pytest.raises(RegistryError, match="is no longer kept — promote another version"):
        rollback(registry, "champion")


def test_a_version_that_came_to_be_named_meanwhile_stays(line: tuple[Registry, list[str]]):
    registry, digests = line
    plan = retention.plan([registry], 90, LATER)["demo"]
    promote(Registry(registry.store, "demo"), digests[4], "staging", override="meanwhile")
    retention.sweep(registry, plan)
    assert digests[4] in registry.digests()
    assert digests[5] not in registry.digests()


def test_a_sweep_that_was_killed_is_completed_by_the_next(line: tuple[Registry, list[str]]):
    registry, digests = line
    plan = retention.plan([registry], 90, LATER)["demo"]
    whole = registry.store.remove

    def dies(key: str) -> None:
        if not key.endswith("manifest.json"):
            raise KeyboardInterrupt
        whole(key)

    registry.store.remove = dies  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        retention.sweep(registry, plan)
    registry.store.remove = whole  # type: ignore[method-assign]
    assert digests[1] not in Registry(registry.store, "demo").digests()
    second = retention.plan([registry], 90, LATER)["demo"]
    assert {key.split("/")[2] for key in second.leftovers} == {digests[1]}
    retention.sweep(registry, second)
    assert registry.store.children("demo/versions") == sorted(second.kept)


def test_a_registration_under_way_is_not_taken_for_a_leftover(store: Store):
    registry = Registry(store, "demo")
    digest = release(registry, 0)
    store.put(f"demo/versions/{'a' * 64}/adapter_config.json", b"{}")
    plan = retention.plan([registry], 90, LATER)["demo"]
    assert plan.leftovers == []
    assert plan.given_up == [digest]


def test_a_version_that_is_registered_while_a_collection_is_planned_stays(line: tuple[Registry, list[str]]):
    registry, new, read = line[0], list[str](), line[0].store.stream

    def register_meanwhile(key: str) -> Iterator[bytes]:
        if key.endswith(LINEAGE) and not new:
            new.append("under way")
            new[0] = release(Registry(registry.store, "demo"), 9)
        return read(key)

    registry.store.stream = register_meanwhile  # type: ignore[method-assign]
    plan = retention.plan([registry], 90, NOW)["demo"]
    assert new[0] in registry.history().kept()
    assert (plan.given_up, plan.leftovers) == ([], [])
