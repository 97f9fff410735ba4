"""Collections beside registrations and readers: what the log names is there, and what is damaged can be registered."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.core.errors import RegistryError
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release import retention
from tasks.registry.release.release import Release, promote, register
from tasks.registry.stores.store import Store
from tasks.registry.versions.manifest import WEIGHTS, Version
from tasks.registry.versions.registry import Registry
from tests.conftest import ROOT
from tests.registry.samples import sample, scores_of

EVEN = scores_of(30, losses=30)  # no reason to promote: no alias keeps a version
pytestmark = pytest.mark.parametrize("store", ["folder", pytest.param("bucket", marks=pytest.mark.e2e)], indirect=True)


def release(store: Store, seed: int = 0, note: str = "") -> Release:
    return register(Registry(store, "demo"), *sample(seed, EVEN, note=note), "champion", GateConfig())


def collect(store: Store) -> list[str]:
    registry = Registry(store, "demo")
    plan = retention.plan([registry], -1, datetime.datetime.now(datetime.UTC))["demo"]
    return retention.sweep(registry, plan)


def is_whole(store: Store, digest: str) -> bool:
    registry = Registry(store, "demo")
    registry.check(digest)
    registry.log.check()
    return registry.holds(digest) and digest in registry.digests() and registry.find("v1") == digest


def once(action: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does something the first time that it is called."""
    left = [action]
    return lambda: left.pop()() and None if left else None


@contextlib.contextmanager
def noting(refusals: list[str]) -> Iterator[None]:
    try:
        yield
    except RegistryError as error:
        refusals.append(str(error))


def test_a_registration_while_the_files_of_its_version_are_removed_is_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    digest, remove = release(store).digest, type(store).remove
    register_now = once(lambda: release(store, note="again"))

    def remove_slowly(self: Store, key: str) -> None:
        register_now()
        remove(self, key)

    monkeypatch.setattr(type(store), "remove", remove_slowly)
    assert len(collect(store)) > 5
    assert is_whole(store, digest)
    collect(store)
    assert Registry(store, "demo").digests() == []


def test_a_registration_that_found_its_version_before_it_was_collected_is_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    digest, put = release(store).digest, Registry.put
    collect_now = once(lambda: collect(store))

    def put_and_wait(self: Registry, candidate: object) -> Version:
        version = put(self, candidate)  # type: ignore[arg-type]
        collect_now()
        return version

    monkeypatch.setattr(Registry, "put", put_and_wait)
    assert release(store, note="again").is_new
    assert is_whole(store, digest)


def test_a_version_registered_again_behind_a_plan_stays(store: Store):
    digest, registry = release(store).digest, Registry(store, "demo")
    plan = retention.plan([registry], -1, datetime.datetime.now(datetime.UTC))["demo"]
    assert plan.given_up == [digest]
    collect(store)
    release(store)
    retention.sweep(registry, plan)
    assert is_whole(store, digest)


def test_no_reader_meets_a_version_that_is_collected(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    digest, fetch = release(store).digest, type(store).fetch
    monkeypatch.setattr(type(store), "remove", lambda *_: None)
    late = Registry(store, "demo")
    late.read(digest)
    collect(store)  # killed before the first file went
    reader = Registry(store, "demo")
    assert not reader.has(digest)
    assert reader.digests() == []
    with pytest.raises(RegistryError, match=rf"`demo` has no version {digest[:12]}"):
        reader.read(digest)

    monkeypatch.undo()

    def fetch_late(self: Store, key: str, *rest: object) -> None:
        collect(store)
        fetch(self, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "fetch", fetch_late)
    with pytest.raises(RegistryError, match=rf"`demo` has no version {digest[:12]}"):
        late.pull(digest, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


@pytest.mark.parametrize("lost", ["all", "the manifest", "a file"])
@pytest.mark.parametrize("note", ["", "other lineage"])
def test_a_version_that_lost_files_is_registered_again(store: Store, lost: str, note: str):
    digest = release(store).digest
    keys = store.ages(f"demo/versions/{digest}")
    gone = {"all": list(keys), "the manifest": [f"demo/versions/{digest}/manifest.json"]}
    for key in gone.get(lost, [f"demo/versions/{digest}/lineage.json"]):
        store.remove(key)
    assert not Registry(store, "demo").holds(digest)
    release(store, note=note)
    assert is_whole(store, digest)


def test_a_champion_that_lost_files_is_mended_by_the_same_bytes_or_once_no_alias_leads_to_it(store: Store):
    digest = release(store).digest
    promote(Registry(store, "demo"), digest, "champion", override="a start")
    for key in store.ages(f"demo/versions/{digest}"):
        store.remove(key)
    with pytest.raises(RegistryError, match="is missing — restore it from a copy; or promote others until"):
        release(store, note="other lineage")
    release(store)
    assert is_whole(store, digest)

    store.remove(f"demo/versions/{digest}/{WEIGHTS}")
    store.remove(f"demo/versions/{digest}/lineage.json")
    for seed in (1, 2):
        promote(Registry(store, "demo"), release(store, seed).digest, "champion", override="the advice")
    release(store, note="other lineage")
    assert is_whole(store, digest)


def test_registrations_beside_a_collecting_process_end_whole(store: Store):
    command = [sys.executable, "-m", "tests.registry.collector", store.label]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as collector:
        digests, refusals = {0: "", 1: ""}, list[str]()
        for turn in range(30):
            with noting(refusals):
                digests[turn % 2] = release(store, turn % 2, note=str(turn)).digest
            reader = Registry(store, "demo")
            for digest in reader.digests():
                with noting(refusals):
                    reader.check(digest)
        removed = int(collector.communicate("end\n")[0])
    assert removed > 20
    fair = ("while it was registered", "has no version", "registered anew while it was read")
    assert [refusal for refusal in refusals if not any(words in refusal for words in fair)] == []
    for seed, digest in digests.items():
        assert release(store, seed).digest == digest
        Registry(store, "demo").check(digest)
