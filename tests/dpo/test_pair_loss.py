"""One configuration, its losses and its memory: mixes, refusals, margins, weights, moving means."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tasks.core.errors import ConfigError
from tasks.core.params import build
from tasks.dpo.objective import losses
from tasks.dpo.objective.loss_table import DIVERGENT, LOSSES, SHIFTED, SMOOTHED, SORTED
from tasks.dpo.objective.pair_loss import ObjectiveConfig, PairLoss, PairScores

NEEDED: dict[str, dict[str, Any]] = {"exo_pair": {"label_smoothing": 1e-3}}


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def loss_of(loss: str | dict[str, float], **more: Any) -> PairLoss:
    names = [loss] if isinstance(loss, str) else loss
    needed = {key: value for name in names for key, value in NEEDED.get(name, {}).items()}
    return PairLoss(ObjectiveConfig(loss=loss, **{**needed, **more}))


def ratios(chosen: Tensor, rejected: Tensor, **more: Tensor) -> PairScores:
    """Return the scores of pairs with these log-ratios against a reference of -50 and -60, at 4 and 5 tokens."""
    base = [torch.full_like(chosen, number) for number in (-50.0, -60.0, 4.0, 5.0)]
    return PairScores(chosen + base[0], rejected + base[1], *base, **more)


def some(count: int, seed: int = 0) -> PairScores:
    numbers = torch.Generator().manual_seed(seed)
    sums = 5 * torch.randn(4, count, generator=numbers, dtype=torch.float64) - 40
    tokens = torch.randint(1, 30, (2, count), generator=numbers).double()
    wpo = -torch.rand(2, count, generator=numbers, dtype=torch.float64)
    return PairScores(*sums, *tokens, wpo_chosen=wpo[0], wpo_rejected=wpo[1])


def part(scores: PairScores, rows: slice) -> PairScores:
    fields = {field.name: getattr(scores, field.name) for field in dataclasses.fields(scores)}
    return PairScores(**{name: None if value is None else value[rows] for name, value in fields.items()})


def values(loss: PairLoss, scores: PairScores) -> Tensor:
    return loss.losses(scores, loss.state0())[0]


ONE = ratios(tensor(2.0), tensor(-1.0))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # the numbers of test_losses, with β = 0.1, w = 2, l = -1 and 4 and 5 tokens
        ("sigmoid", 0.554355),
        ("sigmoid_norm", math.log(1 + math.exp(-0.07))),
        ("hinge", 0.7),
        ("ipo", 18.49),
        ("robust", 0.554355),
        # ε = 1e-3: 0.574443 (-0.554355 + 0.0010005) + 0.425557 (-0.854355 + 6.907755)
        ("exo_pair", 2.258195),
        # τ = 0.05: σ(6) = 0.997527; 0.002473 · 0.554355 + 0.997527 · 0.740818
        ("discopop", 0.740357),
        ("nca_pair", 1.319407),
        ("bco_pair", 1.242536),
        ("sppo_hard", 25.0),
        ("aot", 0.554355),
        ("aot_unpaired", 0.554355),
        ("apo_zero", 0.925187),
        ("apo_down", 0.975391),
    ],
)
def test_every_name_means_its_loss(name: str, expected: float):
    assert values(loss_of(name), ONE).item() == pytest.approx(expected, abs=5e-6)


def test_no_loss_is_without_such_a_number():
    marks = [mark for mark in test_every_name_means_its_loss.pytestmark if mark.name == "parametrize"]
    assert {name for name, _ in marks[0].args[1]} == set(LOSSES)


def test_a_mix_is_the_weighted_sum_of_its_losses():
    scores = some(6)
    mixed = values(loss_of({"sigmoid": 0.8, "bco_pair": 0.2, "apo_zero": 3.0}), scores)
    apart = [values(loss_of(name), scores) for name in ("sigmoid", "bco_pair", "apo_zero")]
    assert torch.allclose(mixed, 0.8 * apart[0] + 0.2 * apart[1] + 3.0 * apart[2], atol=1e-12)


def test_sft_is_a_weight_of_the_likelihood_term_and_no_loss_of_pairs():
    mpo = loss_of({"sigmoid": 0.8, "sft": 0.5}, nll_weight=0.25)
    assert mpo.nll_weight == 0.75
    assert values(mpo, ONE).item() == pytest.approx(0.8 * 0.554355, abs=1e-6)
    alone = loss_of("sft")
    assert (alone.nll_weight, values(alone, ONE).item()) == (1.0, 0.0)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_far_log_ratios_give_finite_losses_and_gradients(name: str):
    far = torch.tensor([200.0, -200.0, 0.0, 200.0, -200.0], requires_grad=True)  # float32, as log-probabilities are
    near = torch.tensor([-200.0, 200.0, 0.0, 200.0, -200.0], requires_grad=True)
    zero, one = torch.zeros(5, dtype=torch.float64), torch.ones(5, dtype=torch.float64)
    losses = values(loss_of(name, beta=1.0), PairScores(far, near, zero, zero, one, one))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert losses.dtype == torch.float64
    assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in (far, near))


@pytest.mark.parametrize("divergence", ["forward_kl", "js", "alpha"])
@pytest.mark.parametrize("name", sorted(DIVERGENT))
def test_far_log_ratios_are_finite_under_every_divergence(name: str, divergence: Any):
    far = torch.tensor([200.0, -200.0, 200.0], requires_grad=True)
    near = torch.tensor([-200.0, 200.0, 200.0], requires_grad=True)
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    losses = values(loss_of(name, divergence=divergence), PairScores(far, near, zero, zero, one, one))
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in (far, near))


def test_a_divergence_takes_the_place_of_both_log_ratios():
    # forward KL: t = 2 and ½ score ½ and -1; the margin is 1.5, β h = 0.15, -ln σ(0.15) = 0.620957
    scores = ratios(tensor(math.log(2)), tensor(-math.log(2)))
    assert values(loss_of("sigmoid", divergence="forward_kl"), scores).item() == pytest.approx(0.620957, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - SORTED))
def test_losses_do_not_depend_on_how_the_pairs_are_split(name: str):
    loss, scores = loss_of(name), some(7)
    assert not loss.needs_whole_step
    pieces = [loss.losses(part(scores, rows), loss.state0()) for rows in (slice(0, 2), slice(2, 3), slice(3, 7))]
    assert torch.equal(torch.cat([losses for losses, _ in pieces]), values(loss, scores))
    assert all(torch.equal(state, loss.state0()) for _, state in pieces)


@pytest.mark.parametrize("name", sorted(SORTED))
def test_sorted_losses_ask_for_the_whole_step(name: str):
    assert loss_of(name).needs_whole_step
    assert loss_of({"sigmoid": 1.0, name: 0.1}).needs_whole_step


def test_the_sorted_loss_of_a_step_is_not_that_of_its_halves():
    loss, scores = loss_of("aot"), some(6)
    halves = [values(loss, part(scores, rows)).sum() for rows in (slice(0, 3), slice(3, 6))]
    assert abs(float(values(loss, scores).sum() - sum(halves))) > 1e-3


def test_beta_follows_the_margin_of_the_step_against_its_running_mean():
    # margins 4 and 2: mean 3; running mean 0.9 · 0 + 0.1 · 3 = 0.3; β = 0.1 (1 + 0.6 (3 - 0.3)) = 0.262
    loss = loss_of("sigmoid", adaptive_beta_gain=0.6)
    assert loss.needs_whole_step
    scores = ratios(tensor(3.0, 1.0), tensor(-1.0, -1.0))
    found, state = loss.losses(scores, loss.state0())
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-0.262 * h)) for h in (4, 2)])
    assert state[0].item() == pytest.approx(0.3)
    # the same again: running mean 0.27 + 0.3 = 0.57; β = 0.1 (1 + 0.6 · 2.43) = 0.2458
    found, state = loss.losses(scores, state)
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-0.2458 * h)) for h in (4, 2)])
    assert state[0].item() == pytest.approx(0.57)


def test_beta_never_falls_below_a_hundredth_of_itself():
    loss = loss_of("hinge", adaptive_beta_gain=0.6)
    found, _ = loss.losses(ratios(tensor(-300.0), tensor(0.0)), loss.state0())
    assert found.item() == pytest.approx(1 + 0.001 * 300)


def test_no_gradient_flows_through_the_beta_that_adapts():
    loss = loss_of("sigmoid", adaptive_beta_gain=0.6)
    chosen = tensor(2.0).requires_grad_()
    # β = 0.1 (1 + 0.6 · 0.9 · 3) = 0.262: d/dw = -β σ(-β h)
    loss.losses(ratios(chosen, tensor(-1.0)), loss.state0())[0].sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.262 / (1 + math.exp(0.262 * 3)))


def test_the_reward_shift_follows_the_mean_reward_of_the_step():
    # rewards 0.4 and 0.2: mean 0.3; δ = 0.75 · 0 + 0.25 · 0.3 = 0.075
    loss = loss_of("bco_pair", bco_momentum=0.75)
    assert loss.needs_whole_step
    found, state = loss.losses(ratios(tensor(4.0), tensor(2.0)), loss.state0())
    assert found.item() == pytest.approx(math.log(1 + math.exp(-0.325)) + math.log(1 + math.exp(0.125)))
    assert state[1].item() == pytest.approx(0.075)


def test_running_means_count_a_pair_as_often_as_it_weighs():
    loss = loss_of({"sigmoid": 1.0, "bco_pair": 1.0}, adaptive_beta_gain=0.5, bco_momentum=0.5)
    weighed = ratios(tensor(4.0, 1.0), tensor(1.0, 1.0), weight=tensor(3.0, 1.0))
    repeated = ratios(tensor(4.0, 4.0, 4.0, 1.0), tensor(1.0, 1.0, 1.0, 1.0))
    (some_, state), (others, other) = (loss.losses(scores, loss.state0()) for scores in (weighed, repeated))
    assert state.tolist() == pytest.approx(other.tolist(), abs=1e-12)
    assert some_.tolist() == pytest.approx(others[2:].tolist(), abs=1e-12)


def test_the_state_given_is_left_as_it_was():
    loss = loss_of("bco_pair", bco_momentum=0.5, adaptive_beta_gain=1.0)
    state, scores = tensor(0.5, 0.25), some(5)
    first, second = (loss.losses(scores, state) for _ in range(2))
    assert state.tolist() == [0.5, 0.25]
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], state)


@pytest.mark.parametrize("name", ["sigmoid", "hinge", "robust", "discopop"])
def test_a_data_margin_is_reward_that_the_pair_must_bring_first(name: str):
    # β h - m = 0.3 - 0.1 = 0.2 = β · 2
    loss = loss_of(name)
    loss.check_columns(has_weights=True, has_margins=True)
    with_margin = values(loss, ratios(tensor(2.0), tensor(-1.0), margin=tensor(0.1)))
    assert with_margin.item() == pytest.approx(values(loss, ratios(tensor(2.0), tensor(0.0))).item())


def test_a_data_margin_is_taken_off_the_length_normalised_reward():
    # β h̄ = 0.07: -ln σ(0.07 - 0.1)
    found = values(loss_of("sigmoid_norm"), ratios(tensor(2.0), tensor(-1.0), margin=tensor(0.1)))
    assert found.item() == pytest.approx(math.log(1 + math.exp(0.03)))


@pytest.mark.parametrize("name", [*sorted(set(LOSSES) - SHIFTED), "sft"])
def test_data_margins_are_refused_where_they_would_be_ignored(name: str):
    loss = loss_of(name)
    loss.check_columns(has_weights=False, has_margins=False)
    with pytest.raises(ConfigError, match=f"`train.objective.loss` is {name}, which has no place for the margins"):
        loss.check_columns(has_weights=False, has_margins=True)


def test_a_mix_with_one_loss_that_ignores_margins_is_refused_by_that_ones_name():
    with pytest.raises(ConfigError, match="is nca_pair, which has no place"):
        loss_of({"sigmoid": 1.0, "nca_pair": 1.0}).check_columns(has_weights=False, has_margins=True)


def test_data_weights_are_refused_by_losses_that_sort():
    with pytest.raises(ConfigError, match="is aot, which has no place for the weights"):
        loss_of("aot").check_columns(has_weights=True, has_margins=False)


def test_wpo_weighs_every_pair_without_a_gradient_of_its_own():
    # e^(-0.5 - 1) = 0.223130
    adjusted = tensor(-0.5).requires_grad_()
    scores = ratios(tensor(2.0), tensor(-1.0), wpo_chosen=adjusted, wpo_rejected=tensor(-1.0))
    found = values(loss_of("sigmoid", wpo=True), scores)
    assert found.item() == pytest.approx(0.223130 * 0.554355, abs=1e-6)
    assert not found.requires_grad


def test_the_gradient_of_the_sums_is_that_of_finite_differences():
    scores = some(4)
    loss = loss_of({"sigmoid": 0.5, "ipo": 1.0, "apo_down": 2.0}, wpo=True)

    def of(chosen: Tensor, rejected: Tensor) -> Tensor:
        moved = dataclasses.replace(scores, policy_chosen=chosen, policy_rejected=rejected)
        return values(loss, moved)

    assert torch.autograd.gradcheck(
        of, [s.clone().requires_grad_() for s in (scores.policy_chosen, scores.policy_rejected)]
    )


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_sees_the_reference_through_differences_alone(name: str):
    scores = some(5)
    moved = {
        field: getattr(scores, field) + 7.0
        for field in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    }
    found = values(loss_of(name), dataclasses.replace(scores, **moved))
    assert torch.allclose(found, values(loss_of(name), scores), atol=1e-9)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"loss": "sigmoyd"}, "`train.objective.loss` is 'sigmoyd' — did you mean `sigmoid`?"),
        ({"loss": {}}, "`train.objective.loss` is {} — name at least one loss"),
        ({"loss": {"sigmoid": 0}}, "`train.objective.loss.sigmoid` is 0.0 — write a number above 0"),
        ({"loss": {"sigmoid": "much"}}, "`train.objective.loss.sigmoid` is 'much' — write a number"),
        ({"beta": 0}, "`train.objective.beta` is 0.0"),
        ({"label_smoothing": 0.5}, "`train.objective.label_smoothing` is 0.5 — write a number from 0 to below 0.5"),
        ({"nll_weight": -1}, "`train.objective.nll_weight` is -1.0"),
        ({"ld_alpha": 1.5}, "`train.objective.ld_alpha` is 1.5"),
        ({"discopop_tau": 0}, "`train.objective.discopop_tau` is 0.0"),
        ({"bco_momentum": 1.1}, "`train.objective.bco_momentum` is 1.1"),
        ({"adaptive_beta_gain": -0.1}, "`train.objective.adaptive_beta_gain` is -0.1"),
        ({"adaptive_beta_momentum": 1}, "`train.objective.adaptive_beta_momentum` is no longer a key"),
        ({"divergence": "tv"}, "`train.objective.divergence` is 'tv' — choose one of: reverse_kl"),
        ({"loss": "exo_pair"}, "`train.objective.label_smoothing` is 0.0 — `exo_pair` takes its logarithm"),
        ({"bco_momentum": 0.9}, "`train.objective.bco_momentum` is 0.9, which has no meaning for sigmoid"),
        ({"loss": "aot", "wpo": True}, "`train.objective.wpo` is True, which has no meaning for aot"),
        ({"loss": "sft", "ld_alpha": 0.5}, "`train.objective.ld_alpha` is 0.5, which has no meaning for sft"),
        ({"loss": "sft", "divergence": "js"}, "`train.objective.divergence` is 'js', which has no meaning for"),
        ({"loss": "sft", "adaptive_beta_gain": 0.5}, "`train.objective.adaptive_beta_gain` is 0.5, which has no"),
        ({"smoothing": 0.1}, "unknown key `train.objective.smoothing`"),
    ],
)
def test_what_is_wrong_is_named(section: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as refusal:
        build(ObjectiveConfig, section, "train.objective")
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_label_smoothing_changes_the_loss_or_is_refused(name: str):
    if name in SMOOTHED:
        assert values(loss_of(name, label_smoothing=0.2), ONE) != values(loss_of(name), ONE)
    else:
        with pytest.raises(ConfigError, match=f"label_smoothing` is 0.2, which has no meaning for {name}"):
            loss_of(name, label_smoothing=0.2)


def test_in_a_mix_label_smoothing_belongs_to_the_losses_that_have_it():
    found = values(loss_of({"sigmoid": 1.0, "hinge": 1.0}, label_smoothing=0.1), ONE)
    assert found.item() == pytest.approx(0.584355 + 0.7, abs=1e-6)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_divergence_changes_the_loss_or_is_refused(name: str):
    if name in DIVERGENT:
        assert values(loss_of(name, divergence="js"), ONE) != values(loss_of(name), ONE)
    else:
        with pytest.raises(ConfigError, match=f"divergence` is 'js', which has no meaning for {name}"):
            loss_of({"sigmoid": 1.0, name: 1.0}, divergence="js")


def test_a_mix_of_the_sigmoid_loss_alone_is_the_paper_s_loss_to_the_last_bit():
    scores = some(64)
    sums = (scores.policy_chosen, scores.policy_rejected)
    leaves = [part.clone().requires_grad_() for part in (*sums, *sums)]
    grown = dataclasses.replace(scores, policy_chosen=leaves[0], policy_rejected=leaves[1])

    assert torch.equal(values(PairLoss(ObjectiveConfig()), grown), values(loss_of({"sigmoid": 1.0}), grown))
    losses_n = values(loss_of({"sigmoid": 1.0}), grown)
    paper_n, chosen_n, rejected_n = losses.dpo_loss(
        leaves[2], leaves[3], scores.reference_chosen, scores.reference_rejected, beta=0.1
    )

    assert torch.equal(losses_n, paper_n)
    ours, papers = (torch.autograd.grad(part.sum(), leaves[i : i + 2]) for part, i in ((losses_n, 0), (paper_n, 2)))
    assert all(torch.equal(a, b) for a, b in zip(ours, papers, strict=True))
    assert torch.equal(chosen_n, 0.1 * (scores.policy_chosen - scores.reference_chosen))
    assert torch.equal(rejected_n, 0.1 * (scores.policy_rejected - scores.reference_rejected))


def test_the_paper_s_loss_by_hand():
    # w = -3 + 5 = 2 and l = -7 + 6 = -1: β h = 0.1 · 3, -ln σ(0.3) = 0.554355; rewards 0.2 and -0.1
    loss, chosen, rejected = losses.dpo_loss(*map(tensor, (-3.0, -7.0, -5.0, -6.0)), beta=0.1)
    assert loss.item() == pytest.approx(0.554355, abs=5e-7)
    assert (chosen.item(), rejected.item()) == (pytest.approx(0.2), pytest.approx(-0.1))
