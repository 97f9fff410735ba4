"""Reading a registry with a long log: milliseconds for an alias and for the list, by a process that knows nothing yet.

run as: python -m tests.bench.registry [--moves 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from tasks.registry.cli.look import version_rows
from tasks.registry.gate.gate import GateConfig
from tasks.registry.log.entries import PROMOTE, Event
from tasks.registry.log.history import History
from tasks.registry.release.release import register
from tasks.registry.stores.folder import FolderStore
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample, scores_of

REPEATS = 20


def filled(root: Path, moves: int) -> FolderStore:
    """Register two versions, and move an alias between them so many times, forth and back being two."""
    store = FolderStore(root)
    registry = Registry(store, "demo")
    even = scores_of(30, losses=30)
    digests = [register(registry, *sample(seed, even), "champion", GateConfig()).digest for seed in range(2)]

    def move(history: History, version: str) -> Event:
        return Event(PROMOTE, version, "champion", history.target("champion"), "override", "back and forth")

    with mock.patch.object(os, "fsync"):  # written at once here; it is reading that is measured
        for number in range(moves):
            registry.log.append(lambda history, number=number: move(history, digests[number % 2]))  # type: ignore[misc]
    return store


def milliseconds(work: Callable[[], object]) -> float:
    """Return the median time of ``work``."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Fill a registry in a temporary folder, and print what reading it takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--moves", type=int, default=1000)
    moves = parser.parse_args().moves
    with tempfile.TemporaryDirectory() as folder:
        store = filled(Path(folder), moves)
        alias = milliseconds(lambda: Registry(store, "demo").find("champion"))
        listed = milliseconds(lambda: version_rows(Registry(store, "demo")))
        replay = milliseconds(lambda: Registry(store, "demo").log.check())
    print(json.dumps({"entries": moves + 2, "alias_ms": alias, "list_ms": listed, "replay_of_all_ms": replay}))


if __name__ == "__main__":
    main()
