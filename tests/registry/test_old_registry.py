"""A registry that an earlier version of this code wrote (tests/registry/old_registry) is read, verified and continued.

It holds a promotion by the gate and one by override, a rollback, a deprecation taken back, two versions whose files
were collected, and snapshots of the log, which nothing reads any more.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import promote, register
from tasks.registry.stores.folder import FolderStore
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample, scores_of

OLD = Path(__file__).parent / "old_registry"
FIRST = "12042dffcdbdb8b5c5017bb0cc9e1a8ae720ec2590d57dd01c943a411357fdc9"
COLLECTED = [
    "1b77ea9b525563976335d144987bcd2678edf39a1713045e7e0cda28e61be1ae",
    "2583d9e04200f168c736aae23855454575ba4c4c6196091875772cff3f7b3018",
]


@pytest.fixture
def old(tmp_path: Path) -> Registry:
    return Registry(FolderStore(Path(shutil.copytree(OLD, tmp_path / "old"))), "demo")


def test_its_log_is_understood(old: Registry):
    history = old.history()
    assert len(history.entries) == 11
    assert history.aliases() == {"champion": FIRST, "staging": FIRST}
    assert history.kept() == [FIRST]
    assert list(history.serials()) == [FIRST, *COLLECTED]
    assert old.log.check() == history
    old.check(FIRST)


def test_what_the_log_command_prints_are_the_files_themselves(old: Registry, command):
    shown = command("log", "demo", "--json", root=old.store.label)[1]
    assert shown == [json.loads(path.read_bytes()) for path in sorted((OLD / "demo/log").iterdir())]
    assert [entry["action"] for entry in shown] == [
        *("register", "promote", "register", "promote", "rollback", "deprecate", "restore"),
        *("promote", "register", "collect", "collect"),
    ]
    assert [shown[3]["authority"], shown[3]["reason"], shown[7]["reason"]] == [
        "override",
        "kinder",
        "approved in run 7",
    ]


def test_it_is_continued(old: Registry):
    guards = {"empty_share": {"value": 0.0, "limit": 0.05, "passed": True}}  # from before judges had papers
    second = register(old, *sample(1, scores_of(10, losses=10), guards=guards), "champion", GateConfig())
    assert (second.digest, second.serial) == (COLLECTED[0], 2)
    promote(old, second.digest, "champion", override="after all")
    fresh = Registry(old.store, "demo")
    assert fresh.find("champion") == second.digest
    assert len(fresh.history().entries) == 13


def test_its_snapshots_are_neither_read_nor_taken_for_strangers(old: Registry, command):
    for path in (Path(old.store.label) / "demo/snapshots").iterdir():
        path.chmod(0o644)
        path.write_text(path.read_text().replace('"champion":[0]', '"champion":[1]'))
    assert command("resolve", "demo", root=old.store.label)[1].strip() == f"demo@{FIRST}"
    assert command("verify", root=old.store.label)[0] == 0
