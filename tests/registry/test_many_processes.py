"""Many writers at once, and writers that die: one log, nothing lost, nothing half visible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tasks.registry.stores.folder import FolderStore
from tasks.registry.stores.store import Store
from tasks.registry.versions.registry import Registry
from tests.registry.rival import EVEN
from tests.registry.samples import sample

# Processes, and versions that each registers for itself.
RIVALS = [
    pytest.param("folder", 16, 3, id="folder"),
    pytest.param("bucket", 16, 2, id="bucket", marks=[pytest.mark.e2e, pytest.mark.timeout(400)]),
]
ROOT = Path(__file__).resolve().parent.parent.parent


def start(root: str, number: int, versions: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.registry.rival", root, str(number), str(versions)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("store", "count", "versions_each"), RIVALS, indirect=["store"])
def test_many_processes_write_one_log_and_a_reader_never_sees_a_part(store: Store, count: int, versions_each: int):
    rivals = [start(store.label, number, versions_each) for number in range(count)]
    polls, longest, seen = 0, 0, set[str]()
    while any(rival.poll() is None for rival in rivals):
        reader = Registry(store, "demo")
        for digest in {*reader.digests()} - seen:
            reader.check(digest)  # raises on anything missing, altered or torn
            seen.add(digest)
        length = len(reader.history().entries)
        assert length >= longest
        polls, longest = polls + 1, length
        time.sleep(0.05)  # the writers need the processors too
    errors = [rival.communicate()[1] for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0] * count, errors
    assert polls > 3

    registry = Registry(store, "demo")
    entries = registry.log.entries()
    assert registry.log.check() == registry.history()
    assert len(entries) >= 3 * count * versions_each
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    versions = Counter(entry.event.version for entry in entries if entry.event.action == "register")
    shared = {sample(index, EVEN)[0].digest for index in range(versions_each)}
    assert set(versions.values()) == {1}  # a version that all register is registered once
    assert len(versions) == count * versions_each + len(shared)
    assert shared <= set(versions)
    moves = Counter((e.event.alias, e.event.reason) for e in entries if e.event.action == "promote")
    wanted = {
        (alias, f"{n}/{index}")
        for n in range(count)
        for index in range(versions_each)
        for alias in ("champion", f"of-{n}")
    }
    assert set(moves) == wanted  # none lost
    assert set(moves.values()) == {1}  # none twice
    if isinstance(store, FolderStore):
        assert not list((store.root / ".drafts").iterdir())


def test_a_process_killed_at_any_step_leaves_nothing_half_visible_and_a_second_run_completes(tmp_path: Path):
    command = [sys.executable, "-m", "tests.registry.kill_points", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, env=os.environ)
    assert done.returncode == 0, done.stderr
    deaths = [json.loads(line) for line in done.stdout.splitlines()]
    digest = sample()[0].digest
    for number, death in enumerate(deaths):
        seen = death["seen"]
        assert seen["events"] in ([], ["register"], ["register", "promote"]), number
        assert seen["versions"] in ([], [digest]), number
        assert seen["versions"] or not seen["events"], number  # the log names only what is there
        assert death["kept"], number  # the second run changed no byte that was there
        assert death["after"] == {
            "versions": [digest],
            "aliases": {"champion": digest},
            "events": ["register", "promote"],
        }, number
    states = {(len(death["seen"]["versions"]), len(death["seen"]["events"])) for death in deaths}
    assert states == {(0, 0), (1, 0), (1, 1), (1, 2)}  # the deaths fell before, between and after every event
    assert len(deaths) > 30
