"""The log: what it refuses, and what reading a long one costs."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.core.errors import RegistryError
from tasks.registry.gate.gate import GateConfig
from tasks.registry.log.entries import PROMOTE, Event
from tasks.registry.log.history import History
from tasks.registry.log.registry_log import Log
from tasks.registry.release.release import register, rollback
from tasks.registry.stores.folder import FolderStore
from tasks.registry.stores.open_store import open_store
from tasks.registry.stores.s3 import S3Store
from tasks.registry.versions.registry import Registry
from tests.registry.conftest import BUCKET, ROOT
from tests.registry.samples import sample, scores_of
from tests.s3_server import Server


def release(registry: Registry, seed: int, wins: int) -> str:
    return register(registry, *sample(seed, scores_of(wins, losses=100 - wins)), "champion", GateConfig()).digest


LOG_DAMAGE = {
    "a lost entry in the middle": (lambda log: (log / "00000002.json").unlink(), "is missing though later entries"),
    "an entry of another number": (lambda log: edit(log, 3, {"number": 4}), "does not follow"),
    "an alias moved by hand": (lambda log: edit(log, 2, {"previous": "9" * 64}), "does not follow"),
    "a version twice registered": (lambda log: edit(log, 3, {"version": entry(log, 1)["version"]}), "does not follow"),
    "an action of a later version": (lambda log: edit(log, 3, {"action": "canonise"}), "unknown to this checkout"),
    "an old entry edited": (lambda log: edit(log, 1, {"by": "nobody@nowhere"}), "00000002.json does not follow"),
    "an old entry exchanged": (lambda log: edit(log, 2, {"when": "1999-01-01T00:00:00+00:00"}), "3.json does not"),
    "a torn entry": (lambda log: rewrite(log, 3, b'{"number": 3, '), "is not a log entry"),
    "a path for a version": (lambda log: edit(log, 3, {"version": "../../x"}), "is not a log entry"),
}


def entry(log: Path, number: int) -> dict:
    return json.loads((log / f"{number:08d}.json").read_bytes())


def rewrite(log: Path, number: int, data: bytes) -> None:
    path = log / f"{number:08d}.json"
    path.chmod(0o644)
    path.write_bytes(data)


def edit(log: Path, number: int, changes: dict) -> None:
    rewrite(log, number, json.dumps(entry(log, number) | changes).encode())


@pytest.mark.parametrize("case", LOG_DAMAGE)
def test_a_log_that_was_tampered_with_is_refused(registry: Registry, case: str):
    damage, said = LOG_DAMAGE[case]
    release(registry, 0, wins=80)
    release(registry, 1, wins=50)
    damage(Path(registry.store.label) / "demo" / "log")
    with pytest.raises(RegistryError, match=said):
        Registry(registry.store, "demo").history()


def test_entries_that_vanish_under_a_reader_are_noticed(registry: Registry):
    release(registry, 0, wins=80)
    registry.history()
    (Path(registry.store.label) / "demo/log/00000002.json").unlink()
    with pytest.raises(RegistryError, match="lost its entries from 2 on"):
        registry.history()


def move_back_and_forth(registry: Registry, moves: int) -> list[str]:
    """Register two versions and move `champion` between them so many times, without asking the gate."""
    digests = [release(registry, seed, wins=50) for seed in range(2)]

    def move(history: History, version: str) -> Event:
        return Event(PROMOTE, version, "champion", history.target("champion"), "override", "back and forth")

    for number in range(moves):
        registry.log.append(functools.partial(move, version=digests[number % 2]))
    return digests


def test_an_event_is_decided_anew_if_another_writer_came_first(registry: Registry):
    digest = release(registry, 0, wins=80)
    seen: list[str | None] = []

    def move(history: History) -> Event:
        seen.append(history.target("staging"))
        if len(seen) == 1:  # another writer, and then a look at the log, as when a decision reads a version's files
            assert Registry(registry.store, "demo").log.append(move)
            registry.history()
        return Event(PROMOTE, digest, "staging", None if len(seen) < 3 else seen[-1], "override")

    assert registry.log.append(move)
    assert seen == [None, None, digest]
    assert [entry.event.previous for entry in registry.log.entries()[2:]] == [None, digest]


class Counting(FolderStore):
    """A folder that counts what is read from it."""

    reads = 0

    def stream(self, key):
        self.reads += 1
        return super().stream(key)


def test_a_long_log_is_read_once_by_each_reader(registry: Registry, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a thousand entries synced to a slow disk take minutes
    digests = move_back_and_forth(registry, 1000)
    store = Counting(Path(registry.store.label))
    fresh = Registry(store, "demo")
    assert fresh.find("champion") == digests[1]
    assert store.reads == 1002 + 1  # each entry, and one look beyond the last
    assert len(fresh.log.entries()) == 1002
    assert store.reads == 1002 + 2
    assert fresh.history() == fresh.log.check()
    assert rollback(fresh, "champion") == (digests[1], digests[0])


def test_threads_that_look_while_another_writer_adds_read_one_chain(registry: Registry):
    move_back_and_forth(registry, 1)
    reader, moves = Registry(registry.store, "demo"), 60
    with ThreadPoolExecutor(9) as pool:
        writing = pool.submit(move_back_and_forth, registry, moves)
        looks = [pool.submit(lambda: [reader.history().tip for _ in range(moves)]) for _ in range(8)]
        writing.result()
        assert all(len(look.result()) == moves for look in looks), "no entry is taken twice"
    assert reader.history() == Registry(registry.store, "demo").history()


def test_a_thread_may_read_the_log_that_another_one_writes(registry: Registry):
    move_back_and_forth(registry, 1)
    moves = 60
    with ThreadPoolExecutor(5) as pool:
        looks = [pool.submit(lambda: [registry.history().tip for _ in range(4 * moves)]) for _ in range(4)]
        move_back_and_forth(registry, moves)
        assert all(len(look.result()) == 4 * moves for look in looks)
    assert len(registry.log.check().entries) == 3 + moves


@pytest.fixture
def remote(server: Server) -> Callable[[], tuple[Registry, list[str]]]:
    """Open the registry of a bucket as a new process does; its requests are counted in the list."""

    def opened() -> tuple[Registry, list[str]]:
        store, requests = open_store(ROOT), list[str]()
        assert isinstance(store, S3Store)
        store._bucket.client.meta.events.register("before-send.s3", lambda request, **_: requests.append(request.url))
        return Registry(store, "demo"), requests

    return opened


def copy_of(number: int) -> Path:
    return Log(open_store(ROOT), "demo")._copies / f"{number:08d}.json"


def test_a_bucket_is_asked_for_new_entries_alone(remote):
    digests = move_back_and_forth(remote()[0], 40)
    reader, requests = remote()
    assert reader.find("champion") == digests[1]
    assert len(requests) == 3, "the newest known entry, a listing, and one look beyond"
    writer, _ = remote()
    for _ in range(2):
        writer.log.append(
            lambda history: Event(PROMOTE, digests[0], "champion", history.target("champion"), "override")
        )
    reader, requests = remote()
    assert reader.find("champion") == digests[0]
    assert len(requests) == 3 + 0, "this machine wrote them, so it has copies"
    for number in (43, 44):
        copy_of(number).unlink()
    reader, requests = remote()
    assert reader.find("champion") == digests[0]
    assert len(requests) == 3 + 2
    reader, requests = remote()
    reader.log.check()
    assert len(requests) == 44 + 2, "`verify` reads all of them"


COPY_DAMAGE = {
    "another version in the newest entry": (44, lambda data, digests: data.replace(digests[1], digests[0])),
    "another version in the middle": (20, lambda data, digests: data.replace(digests[0], digests[1])),
    "another reason in the middle": (20, lambda data, _: data.replace("back and forth", "nothing")),
    "a torn entry": (20, lambda data, _: data[: len(data) // 2]),
    "an empty entry": (44, lambda *_: ""),
}


@pytest.mark.parametrize("case", COPY_DAMAGE)
def test_a_local_copy_that_was_altered_moves_no_alias(remote, case: str):
    number, damage = COPY_DAMAGE[case]
    digests = move_back_and_forth(remote()[0], 42)
    path = copy_of(number)
    path.write_text(damage(path.read_text(), digests))
    reader, requests = remote()
    assert reader.find("champion") == digests[1]
    assert len(requests) == 44 + 3, "all entries are read from the bucket"
    reader, requests = remote()
    assert reader.find("champion") == digests[1]
    assert len(requests) == 3, "and the copy is whole again"


def test_a_copy_of_another_log_is_not_taken_for_this_one(remote, server: Server):
    move_back_and_forth(remote()[0], 5)
    for name in server.names(BUCKET):
        server.client.delete_object(Bucket=BUCKET, Key=name)
    registry, _ = remote()
    assert registry.history() == History()
    digest = release(registry, 7, wins=80)
    assert remote()[0].history().aliases() == {"champion": digest}


def test_a_bucket_is_read_without_a_place_for_copies(remote, monkeypatch: pytest.MonkeyPatch):
    digests = move_back_and_forth(remote()[0], 5)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert remote()[0].find("champion") == digests[0]
