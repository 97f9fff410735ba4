"""Differences between two versions, the family of a version, and the commands that show both."""

from __future__ import annotations

import json

import pytest

from tasks.registry.cli.diff import PARTS, compare
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.versions.manifest import LINEAGE, Candidate
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample


def release(registry: Registry, seed: int, wins: int = 80, **lineage) -> str:
    scores = {f"p{number:03d}": float(number < wins) for number in range(100)}
    candidate, evidence = sample(seed, scores)
    record = json.loads(candidate.files[LINEAGE]) | lineage
    params = f"train: {{learning_rate: {wins}.0e-6, lora: {{rank: 4}}}}\n".encode()
    files = {**candidate.files, "params.yaml": params, LINEAGE: json.dumps(record).encode()}
    candidate = Candidate(candidate.identity, files)
    return register(registry, candidate, evidence, "champion", GateConfig()).digest


def test_params_and_metrics_are_compared(registry: Registry):
    one, other = release(registry, 1), release(registry, 2, wins=90)
    differences = compare((registry, one), (registry, other))
    assert differences["params"] == {"train.learning_rate": [8e-05, 9e-05]}
    assert differences["metrics"] == {"winrate.win_rate": [0.8, 0.9]}
    assert set(differences["identity"]) == {"weights", "evidence"}


def test_a_version_does_not_differ_from_itself(registry: Registry):
    one = release(registry, 1)
    assert compare((registry, one), (registry, one)) == {part: {} for part in PARTS}


@pytest.fixture
def family(registry: Registry) -> list[str]:
    """A version, its child and grandchild on newer data, and one that has nothing to do with them."""
    old, new = {"digest": "1" * 64, "pairs_used": {"train": 9}}, {"digest": "2" * 64, "pairs_used": {"train": 12}}
    first = release(registry, 1, data=old)
    second = release(registry, 2, data=new, parent={"name": "demo", "digest": first})
    third = release(registry, 3, data=new, parent={"name": "demo", "digest": second})
    other = release(registry, 4, data=old, parent={"folder": "models/sft"})
    return [first, second, third, other]


def test_lineage_goes_from_a_version_to_its_parents_and_children_and_from_data_to_versions(command, family: list[str]):
    for version in ("demo@v1", "demo@v2", "demo@v3"):
        rows = command("lineage", version, "--json")[1]
        assert [row["digest"] for row in rows] == family[:3]
    alone = command("lineage", "demo@v4", "--json")[1]
    assert [(row["digest"], row["parent"]) for row in alone] == [(family[3], "models/sft")]
    assert [row["digest"] for row in command("lineage", "--data", "2222", "--json")[1]] == family[1:3]
    status, _, error = command("lineage", "--data", "9999")
    assert status == 1
    assert "no version was trained on the data '9999' — data there: 111111111111, 222222222222" in error
    lines = command("lineage", "demo@v2")[1].splitlines()
    assert lines[0].split() == ["version", "digest", "data", "trained", "from", "git", "base"]
    assert lines[2].split()[:4] == ["demo@v2", family[1][:12], "2" * 12, f"demo@{family[0][:12]}"]


def test_diff_shows_a_line_for_each_difference(command, family: list[str]):
    status, out, _ = command("diff", "demo@v1", "demo@v2")
    assert status == 0
    assert "params: the same" in out
    assert "data.pairs_used.train" in out
    assert set(command("diff", "demo@v1", "demo@v2", "--json")[1]) == set(PARTS)


def test_deprecate_and_gc_tell_what_they_did(command, family: list[str]):
    status, _, error = command("deprecate", "demo@v3")
    assert (status, "deprecate without a reason" in error) == (1, True)
    assert command("deprecate", "demo@v3", "--reason", "it swears")[1].strip() == f"demo {family[2][:12]} is deprecated"
    assert "it swears" in command("show", "demo@v3")[1]
    assert "deprecated" in command("list")[1]
    status, _, error = command("promote", "demo@v3", "--override", "still")
    assert "is deprecated: it swears" in error
    assert "is no longer deprecated" in command("deprecate", "demo@v3", "--undo")[1]
    dry = command("gc", "--days", "0")[1]
    assert "nothing was changed: --apply does it" in dry
    assert len(command("list", "--json")[1]) == 4
    result = command("gc", "--days", "0", "--apply", "--json")[1][0]
    assert set(result["given_up"]) == {family[1], family[2], family[3]}
    assert len(result["removed"]) == 3 * 11
    assert [row["digest"] for row in command("list", "--json")[1]] == [family[0]]
    actions = [entry["action"] for entry in command("log", "demo", "--json")[1]]
    assert actions[-3:] == ["collect"] * 3
