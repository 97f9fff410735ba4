"""The fixed reference: scored once, off the adapter, without holes, and never moved by training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.core.errors import ArtifactError
from tasks.core.files import atomic_folder
from tasks.dpo.capacity.memory import Recompute
from tasks.dpo.dataset import blocks
from tasks.dpo.dataset.scored_pairs import ScoredPairs, open_scored
from tasks.dpo.model.adapter import LoraSettings
from tasks.dpo.reference.reference_pass import reference_logps
from tasks.dpo.training.activation_checkpointing import set_modes
from tasks.pairs.tokens.token_cache import TokenPairs, TokenRow
from tests.dpo import tiny

PAIRS = tiny.pairs(9)


def store(folder: Path, scored: ScoredPairs, base: str = "b", logps: np.ndarray | None = None) -> Path:
    """Write a reference folder as the stage does, for the split `train`."""
    inputs = {"base": base, "train_tokens": scored.tokens.token_digest()}
    with atomic_folder(folder, {"stage": "reference", "inputs": inputs}) as draft:
        np.save(draft / "train.logps.npy", scored.logps if logps is None else logps)
    return folder


@pytest.fixture(scope="module")
def scored() -> ScoredPairs:
    return reference_logps(tiny.base(), PAIRS)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_trained_policy_with_its_adapter_off_scores_as_the_bare_base(family: str):
    bare = reference_logps(tiny.base(family), PAIRS).logps
    model = tiny.policy(family)
    assert np.array_equal(reference_logps(model, PAIRS).logps, bare)
    trained = tiny.moved(model)
    assert np.array_equal(reference_logps(trained, PAIRS).logps, bare)
    on = reference_logps(trained.merge_and_unload(), PAIRS).logps
    assert np.abs(on - bare).max() > 1e-2, "the adapter does something when it is on"


def test_every_token_is_scored_from_what_stands_before_it(scored: ScoredPairs):
    model, place = tiny.base(), 0
    for i in range(len(PAIRS)):
        row = PAIRS.row(i)
        for completion in (row.chosen, row.rejected):
            ids = torch.from_numpy(np.concatenate([row.prompt, completion]).astype(np.int64))
            with torch.no_grad():
                logps = torch.log_softmax(model(input_ids=ids[None]).logits[0], dim=-1)
            for k, token in enumerate(completion):
                expected = float(logps[len(row.prompt) + k - 1, int(token)])
                assert scored.logps[place] == pytest.approx(expected, abs=1e-5)
                place += 1
    assert place == len(scored.logps)


def test_two_scorings_are_identical_whatever_the_dropout():
    model = tiny.policy(lora=LoraSettings(rank=4, alpha=8, dropout=0.5))
    set_modes(tiny.moved(model), Recompute.NONE)
    model.train()
    one, two = (reference_logps(model, PAIRS).logps for _ in range(2))
    assert np.array_equal(one, two)
    assert model.training


@pytest.mark.parametrize("tokens", [1, 70])
def test_the_batch_shape_does_not_change_the_reference(scored: ScoredPairs, tokens: int):
    other = reference_logps(tiny.base(), PAIRS, tiny.budget(tokens))
    assert np.abs(other.logps - scored.logps).max() < 1e-5


def test_sums_are_those_of_each_branch_in_the_order_asked(scored: ScoredPairs):
    # row 0's chosen tokens come first in the flat array, then its rejected ones
    c, r = (int(n) for n in PAIRS.lengths[0, 1:])
    chosen, rejected = scored.sums(np.array([4, 0]))
    assert float(chosen[1]) == pytest.approx(float(scored.logps[:c].sum()), abs=1e-5)
    assert float(rejected[1]) == pytest.approx(float(scored.logps[c : c + r].sum()), abs=1e-5)
    assert [float(part.sum()) for part in scored.sums(np.arange(9))] == pytest.approx(
        [float(sum(scored.sums(np.array([i]))[k] for i in range(9))) for k in (0, 1)]
    )


def test_a_base_that_gives_no_numbers_is_refused():
    model = tiny.base()
    model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(ArtifactError, match="reference log-probabilities are NaN or inf"):
        reference_logps(model, PAIRS)


def test_tokens_beyond_the_vocabulary_are_refused_by_name():
    row = TokenRow(*(np.array([5, tiny.VOCABULARY], np.int32) for _ in range(3)))
    with pytest.raises(ArtifactError, match="token id 97, the base has embeddings for 97"):
        reference_logps(tiny.base(), TokenPairs.of_rows([row], ["a"], ["a"]))


def test_token_logps_are_those_of_the_rows_asked_in_their_order(scored: ScoredPairs):
    ends = np.cumsum(PAIRS.lengths[:, 1:].sum(axis=1))
    third, first = scored.logps[ends[1] : ends[2]], scored.logps[: ends[0]]
    assert np.array_equal(scored.token_logps(np.array([2, 0])), np.concatenate([third, first]))
    assert scored.token_logps(np.zeros(0, np.int64)).shape == (0,)


def test_sums_are_the_same_however_many_rows_are_summed_at_once(scored: ScoredPairs, monkeypatch: pytest.MonkeyPatch):
    whole = scored.sums(np.arange(9))
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 20)
    assert all(torch.equal(a, b) for a, b in zip(scored.sums(np.arange(9)), whole, strict=True))
    assert [len(part) for part in scored.sums(np.zeros(0, np.int64))] == [0, 0]


def test_sums_of_many_tokens_are_float64():
    # 2^24 + 1 is no float32: a float32 sum of ones stands still there
    row = TokenRow(*(np.zeros(n, np.int32) for n in (1, 2**24 + 1, 1)))
    tokens = TokenPairs.of_rows([row], ["a"], ["a"])
    chosen, rejected = ScoredPairs(tokens, np.ones(2**24 + 2, np.float32)).sums(np.array([0]))
    assert (float(chosen[0]), float(rejected[0])) == (2.0**24 + 1, 1.0)


def test_what_was_stored_is_read_back(scored: ScoredPairs, tmp_path: Path):
    found = open_scored(PAIRS, store(tmp_path / "reference", scored), "train", "b")
    assert np.array_equal(found.logps, scored.logps)


def test_weights_and_margins_are_no_part_of_a_reference_s_identity(scored: ScoredPairs, tmp_path: Path):
    folder = store(tmp_path / "reference", scored)
    other = dataclasses.replace(PAIRS, weights=PAIRS.weights + 1, margins=PAIRS.margins + 1)
    assert len(open_scored(other, folder, "train", "b")) == 9


@pytest.mark.parametrize(("recorded", "wanted"), [(None, "a" * 64), ("a" * 64, None), ("a" * 64, "b" * 64)])
def test_a_reference_of_another_adapter_is_refused(
    scored: ScoredPairs, tmp_path: Path, recorded: str | None, wanted: str | None
):
    inputs = {"base": "b", "train_tokens": PAIRS.token_digest(), **({"adapter": recorded} if recorded else {})}
    with atomic_folder(tmp_path / "reference", {"inputs": inputs}) as draft:
        np.save(draft / "train.logps.npy", scored.logps)
    assert len(open_scored(PAIRS, tmp_path / "reference", "train", "b", recorded)) == 9
    said = r"was computed with .* adapter.*, data/adapters/init holds .* — run `dvc repro reference`"
    with pytest.raises(ArtifactError, match=said):
        open_scored(PAIRS, tmp_path / "reference", "train", "b", wanted)


@pytest.mark.parametrize(("recorded", "wanted"), [(None, "bfloat16"), ("bfloat16", "auto"), ("float32", "bfloat16")])
def test_a_reference_computed_in_another_type_is_refused(
    scored: ScoredPairs, tmp_path: Path, recorded: str | None, wanted: str
):
    inputs = {"base": "b", "train_tokens": PAIRS.token_digest(), **({"compute_dtype": recorded} if recorded else {})}
    with atomic_folder(tmp_path / "reference", {"inputs": inputs}) as draft:
        np.save(draft / "train.logps.npy", scored.logps)
    same = open_scored(PAIRS, tmp_path / "reference", "train", "b", compute_dtype=recorded or "auto")
    assert len(same) == 9
    with pytest.raises(ArtifactError, match=r"`base.compute_dtype` .* is .* now — run `dvc repro reference`"):
        open_scored(PAIRS, tmp_path / "reference", "train", "b", compute_dtype=wanted)


def changed(how: str) -> TokenPairs:
    """Return PAIRS with one row changed as a mistake in a cache key would not notice."""
    rows = [PAIRS.row(i) for i in range(9)]
    first = rows[0]
    if how == "end":
        chosen = first.chosen.copy()
        chosen[-1] = 2
        rows[0] = TokenRow(first.prompt, chosen, first.rejected)
    if how == "boundary":  # the same ids in the same order, another token belongs to the prompt
        joined = np.concatenate([first.prompt, first.chosen])
        cut = len(first.prompt) - 1
        rows[0] = TokenRow(joined[:cut], joined[cut:], first.rejected)
    if how == "order":
        rows[0], rows[1] = rows[1], rows[0]
    if how == "length":
        rows[0] = TokenRow(first.prompt, first.chosen[:-1], first.rejected)
    names = [f"{i:016x}" for i in range(9)]
    return TokenPairs.of_rows(rows, names, names)


@pytest.mark.parametrize("how", ["end", "boundary", "order", "length"])
def test_a_reference_of_other_tokens_is_refused(scored: ScoredPairs, tmp_path: Path, how: str):
    folder = store(tmp_path / "reference", scored)
    with pytest.raises(ArtifactError, match="computed for other train tokens"):
        open_scored(changed(how), folder, "train", "b")


def test_a_reference_of_another_base_is_refused(scored: ScoredPairs, tmp_path: Path):
    with pytest.raises(ArtifactError, match="computed with another base"):
        open_scored(PAIRS, store(tmp_path / "reference", scored, base="other"), "train", "b")


@pytest.mark.parametrize("hole", [np.nan, -np.inf])
def test_a_reference_with_holes_is_refused(scored: ScoredPairs, tmp_path: Path, hole: float):
    logps = scored.logps.copy()
    logps[[3, 8]] = hole
    with pytest.raises(ArtifactError, match="has 2 values that are NaN or infinite"):
        open_scored(PAIRS, store(tmp_path / "reference", scored, logps=logps), "train", "b")


@pytest.mark.parametrize(
    "logps", [np.zeros(3, np.float32), np.zeros((1, 2), np.float32), np.zeros(3, np.float64), np.array(["a"])]
)
def test_a_reference_of_the_wrong_shape_is_refused(scored: ScoredPairs, tmp_path: Path, logps: np.ndarray):
    folder = store(tmp_path / "reference", scored, logps=logps)
    with pytest.raises(ArtifactError, match=r"the tokens need float32\[\d+\]"):
        open_scored(PAIRS, folder, "train", "b")


def test_a_torn_reference_is_refused(scored: ScoredPairs, tmp_path: Path):
    folder = store(tmp_path / "reference", scored)
    path = folder / "train.logps.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(ArtifactError, match="bytes, its manifest says"):
        open_scored(PAIRS, folder, "train", "b")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="does not have the SHA-256 of its manifest"):
        open_scored(PAIRS, folder, "train", "b")


def test_a_reference_without_its_manifest_was_never_finished(scored: ScoredPairs, tmp_path: Path):
    folder = store(tmp_path / "reference", scored)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="never finished"):
        open_scored(PAIRS, folder, "train", "b")


@pytest.mark.parametrize("content", [b"", b"not an array"])
def test_a_file_that_is_no_array_is_refused(scored: ScoredPairs, tmp_path: Path, content: bytes):
    inputs = {"base": "b", "train_tokens": PAIRS.token_digest()}
    with atomic_folder(tmp_path / "reference", {"inputs": inputs}) as draft:
        (draft / "train.logps.npy").write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read"):
        open_scored(PAIRS, tmp_path / "reference", "train", "b")


def test_the_reference_stays_that_of_step_0_through_every_epoch(scored: ScoredPairs):
    model, before = tiny.policy(), scored.logps.copy()
    config = tiny.config(pairs_per_step=3, epochs=3, learning_rate=1e-2, lora=tiny.LORA)
    tiny.run(PAIRS, config, model=model)
    assert np.array_equal(scored.logps, before)
    # scored anew behind three epochs, "after resume", the values are still those of the base
    assert np.array_equal(reference_logps(model, PAIRS).logps, before)


def test_rewards_are_measured_from_the_base_in_the_last_epoch_as_in_the_first(scored: ScoredPairs):
    config = tiny.config(pairs_per_step=9, epochs=4, learning_rate=2e-2, schedule="constant", lora=tiny.LORA)
    result, model = tiny.run(PAIRS, config, test_pairs=PAIRS)
    merged = reference_logps(model.merge_and_unload(), PAIRS)
    chosen, rejected = (
        policy - base for policy, base in zip(merged.sums(np.arange(9)), scored.sums(np.arange(9)), strict=True)
    )
    assert result.after["reward_chosen"] == pytest.approx(config.objective.beta * float(chosen.mean()), abs=1e-4)
    assert result.after["margin"] == pytest.approx(config.objective.beta * float((chosen - rejected).mean()), abs=1e-4)
    assert result.after["margin"] > 0.1
