"""Differences between two versions, the family of a version, and the commands that show both."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from safetensors.numpy import save

from tasks.registry.cli.diff import compare
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.versions.manifest import ADAPTER_CONFIG, LINEAGE, WEIGHTS, Candidate
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample, sha

MODULE = "base_model.model.layers.0.q_proj"


def adapter(seed: int, rank: int = 4) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(rank, 6)), draw.normal(size=(5, rank))
    return {f"{MODULE}.lora_A.weight": a.astype("f4"), f"{MODULE}.lora_B.weight": b.astype("f4")}


def release(registry: Registry, weights: dict[str, np.ndarray], config: dict, wins: int = 80, **lineage) -> str:
    scores = {f"p{number:03d}": float(number < wins) for number in range(100)}
    candidate, evidence = sample(0, scores)
    data, told = save(weights), json.dumps(config).encode()
    identity = dataclasses.replace(candidate.identity, weights=sha(data), adapter_config=sha(told))
    papers = json.loads(candidate.files[LINEAGE]) | lineage
    params = f"train: {{learning_rate: {wins}.0e-6, lora: {{rank: 4}}}}\n".encode()
    files = {**candidate.files, WEIGHTS: data, ADAPTER_CONFIG: told, "params.yaml": params}
    candidate = Candidate(identity, {**files, LINEAGE: json.dumps(papers).encode()})
    evidence = dataclasses.replace(evidence, version=candidate.digest)
    return register(registry, candidate, evidence, "champion", GateConfig()).digest


CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def test_params_numbers_and_norms_are_compared(registry: Registry):
    one = release(registry, adapter(1), CONFIG)
    other = release(registry, adapter(2), CONFIG, wins=90)
    found = compare((registry, one), (registry, other))
    assert found["params"] == {"train.learning_rate": [8e-05, 9e-05]}
    assert found["metrics"] == {"winrate.win_rate": [0.8, 0.9]}
    assert set(found["identity"]) == {"weights", "evidence"}
    updates = [2.0 * w[f"{MODULE}.lora_B.weight"] @ w[f"{MODULE}.lora_A.weight"] for w in (adapter(1), adapter(2))]
    expected = [np.linalg.norm(updates[0]), np.linalg.norm(updates[1]), np.linalg.norm(updates[0] - updates[1])]
    norms = found["weights"]
    assert [norms["one"], norms["other"], norms["difference"]] == pytest.approx(expected, rel=1e-6)
    assert norms["modules"][MODULE]["one"] == pytest.approx(expected[0], rel=1e-6)


def test_a_version_differs_from_itself_in_nothing(registry: Registry):
    one = release(registry, adapter(1), CONFIG)
    found = compare((registry, one), (registry, one))
    assert all(found[part] == {} for part in ("identity", "params", "lineage", "metrics"))
    assert found["weights"]["difference"] == 0.0


def test_another_rank_of_the_same_layers_can_be_compared_and_dora_cannot(registry: Registry):
    one = release(registry, adapter(1), CONFIG)
    wide = release(registry, adapter(1, rank=3), {**CONFIG, "r": 3, "use_rslora": True})
    norms = compare((registry, one), (registry, wide))["weights"]
    scaled = adapter(1, rank=3)
    update = 8 / math.sqrt(3) * scaled[f"{MODULE}.lora_B.weight"] @ scaled[f"{MODULE}.lora_A.weight"]
    assert norms["other"] == pytest.approx(np.linalg.norm(update), rel=1e-6)
    dora = release(registry, adapter(3), {**CONFIG, "use_dora": True})
    assert compare((registry, one), (registry, dora))["weights"] is None


def test_bfloat16_weights_are_compared_too(registry: Registry):
    import torch
    from safetensors.torch import save as save_torch

    from tasks.registry.cli.diff import _factors

    tensors = {name: torch.tensor(value).bfloat16() for name, value in adapter(1).items()}
    factors = _factors(save_torch(tensors), CONFIG, "x")
    expected = 2.0 * tensors[f"{MODULE}.lora_B.weight"].double().numpy()
    assert np.array_equal(factors[MODULE][0], expected)


@pytest.fixture
def family(registry: Registry) -> list[str]:
    """A version, its child and grandchild on newer data, and one that has nothing to do with them."""
    old, new = {"digest": "1" * 64, "pairs_used": {"train": 9}}, {"digest": "2" * 64, "pairs_used": {"train": 12}}
    first = release(registry, adapter(1), CONFIG, data=old)
    second = release(registry, adapter(2), CONFIG, data=new, parent={"name": "demo", "digest": first})
    third = release(registry, adapter(3), CONFIG, data=new, parent={"name": "demo", "digest": second})
    other = release(registry, adapter(4), CONFIG, data=old, parent={"folder": "models/sft"})
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
    assert "weights: norm of the update " in out
    assert command("diff", "demo@v1", "demo@v2", "--json")[1]["weights"]["difference"] > 0


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
    told = command("gc", "--days", "0", "--apply", "--json")[1][0]
    assert set(told["given_up"]) == {family[1], family[2], family[3]}
    assert len(told["removed"]) == 3 * 11
    assert [row["digest"] for row in command("list", "--json")[1]] == [family[0]]
    actions = [entry["action"] for entry in command("log", "demo", "--json")[1]]
    assert actions[-3:] == ["collect"] * 3
