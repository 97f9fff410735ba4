"""The objective, its metrics and its regulariser, with the arithmetic shown."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.dpo.objective import losses
from tasks.dpo.objective.losses import accuracy, sigmoid
from tasks.dpo.objective.metrics import PairSums
from tasks.dpo.objective.pair_loss import PairScores

CHOSEN, REJECTED = 2.0, -1.0  # the log-ratios of the pair below: with β = 0.1, rewards 0.2 and -0.1, β h = 0.3
LN_UP = {0.1: 0.644397, 0.15: 0.620957, 0.2: 0.598139, 0.3: 0.554355}  # -ln σ(x) = ln(1 + e^-x)


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_margin_is_the_difference_of_the_two_log_ratios():
    # chosen: -3 - (-5) = 2; rejected: -7 - (-6) = -1; margin 2 - (-1) = 3
    scores = PairScores(*map(tensor, (-3, -7, -5, -6, 1, 1)))
    assert PairSums.of(tensor(0.0), scores, beta=1.0).means()["margin"] == 3.0


def test_a_margin_of_zero_costs_ln_2_for_every_beta():
    for beta in (0.01, 0.1, 5.0):
        assert sigmoid(tensor(0.0), beta).item() == pytest.approx(math.log(2), abs=1e-12)


def test_the_loss_of_a_margin_by_hand():
    # β h = 0.1 · 3 = 0.3; σ(0.3) = 1/(1 + e^-0.3) = 0.574443; -ln 0.574443 = 0.554355
    assert sigmoid(tensor(3.0), 0.1).item() == pytest.approx(0.554355, abs=1e-6)
    # a wrong order costs more: -ln σ(-0.3) = 0.3 + 0.554355
    assert sigmoid(tensor(-3.0), 0.1).item() == pytest.approx(0.854355, abs=1e-6)


def test_label_smoothing_mixes_the_loss_of_both_orders():
    # 0.9 · 0.554355 + 0.1 · 0.854355 = 0.584355
    assert sigmoid(tensor(3.0), 0.1, label_smoothing=0.1).item() == pytest.approx(0.584355, abs=1e-6)


def test_label_smoothing_stops_pulling_where_the_odds_are_those_of_the_labels():
    # the minimum is at σ(β h) = 1 - ε: with ε = 0.2, β h = ln(0.8 / 0.2) = ln 4
    margin = tensor(math.log(4)).requires_grad_()
    sigmoid(margin, 1.0, label_smoothing=0.2).sum().backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_the_gradient_is_minus_beta_times_the_weight_of_eq_7():
    # d/dh -log σ(β h) = -β σ(-β h) = -0.1 · σ(-0.3) = -0.1 · 0.425557
    margin = tensor(3.0).requires_grad_()
    sigmoid(margin, 0.1).sum().backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(-0.0425557, abs=1e-7)


def test_huge_margins_stay_finite_numbers():
    assert torch.isfinite(sigmoid(tensor(-1e6, 1e6), 1.0, label_smoothing=0.1)).all()


def test_the_length_normalised_margin_is_a_difference_of_nats_a_token():
    # 2 / 4 - (-1) / 5 = 0.5 + 0.2
    mean = losses.token_mean_margin(tensor(CHOSEN), tensor(REJECTED), tensor(4), tensor(5))
    assert mean.item() == pytest.approx(0.7, abs=1e-12)


def test_hinge_is_one_less_the_reward_margin_and_stops_at_zero():
    assert losses.hinge(tensor(3.0, 10.0, 12.0, -3.0), 0.1).tolist() == pytest.approx([0.7, 0.0, 0.0, 1.3])


def test_ipo_by_hand():
    # 1 / (2 · 0.1) = 5; (0.7 - 5)² = 18.49; nothing is lost where the margin is 5
    assert losses.ipo(tensor(0.7, 5.0), 0.1).tolist() == pytest.approx([18.49, 0.0])


def test_robust_by_hand():
    # (0.9 · 0.554355 - 0.1 · 0.854355) / 0.8 = 0.516855
    assert losses.robust(tensor(3.0), 0.1, 0.1).item() == pytest.approx(0.516855, abs=1e-6)


def test_robust_is_in_expectation_over_flipped_labels_the_loss_of_the_true_ones():
    margin = tensor(3.0, -40.0, 0.5)
    expected = 0.8 * losses.robust(margin, 0.1, 0.2) + 0.2 * losses.robust(-margin, 0.1, 0.2)
    assert expected.tolist() == pytest.approx(sigmoid(margin, 0.1).tolist(), abs=1e-12)


def test_exo_by_hand():
    # q = σ(0.3) = 0.574443 against p = 0.9:  0.574443 (-0.554355 - ln 0.9) = 0.574443 · -0.448994 = -0.257922
    # and 0.425557 against 0.1:               0.425557 (-0.854355 - ln 0.1) = 0.425557 ·  1.448230 =  0.616305
    assert losses.exo_pair(tensor(3.0), 0.1, 0.1).item() == pytest.approx(0.358383, abs=2e-6)


def test_exo_costs_nothing_where_the_policy_has_the_odds_of_the_labels():
    # σ(β h) = 1 - ε = 0.8 at β h = ln 4
    margin = tensor(math.log(4)).requires_grad_()
    loss = losses.exo_pair(margin, 1.0, 0.2)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(0.0, abs=1e-12)


def test_discopop_by_hand():
    # z = 0.3, τ = 0.5: σ(0.6) = 0.645656; 0.354344 · 0.554355 + 0.645656 · e^-0.3 = 0.196432 + 0.478314
    assert losses.discopop(tensor(3.0), 0.1, 0.5).item() == pytest.approx(0.674746, abs=2e-6)


def test_nca_by_hand():
    # -ln σ(0.2) + ½ (-ln σ(-0.2)) + ½ (-ln σ(0.1)) = 0.598139 + 0.399070 + 0.322199
    found = losses.nca_pair(tensor(CHOSEN), tensor(REJECTED), 0.1)
    assert found.item() == pytest.approx(LN_UP[0.2] + (LN_UP[0.2] + 0.2) / 2 + LN_UP[0.1] / 2, abs=2e-6)


def test_bco_by_hand_with_and_without_a_shift():
    chosen, rejected = tensor(CHOSEN), tensor(REJECTED)
    assert losses.bco_pair(chosen, rejected, 0.1).item() == pytest.approx(LN_UP[0.2] + LN_UP[0.1], abs=2e-6)
    # 0.2 - 0.05 = 0.15 and -(-0.1 - 0.05) = 0.15
    assert losses.bco_pair(chosen, rejected, 0.1, 0.05).item() == pytest.approx(2 * LN_UP[0.15], abs=2e-6)


def test_sppo_by_hand():
    # (2 - 5)² + (-1 + 5)² = 9 + 16; the goal is w = 5, l = -5
    found = losses.sppo_hard(tensor(CHOSEN, 5.0), tensor(REJECTED, -5.0), 0.1)
    assert found.tolist() == pytest.approx([25.0, 0.0])


def test_apo_by_hand():
    # σ(0.2) = 0.549834, σ(-0.1) = 0.475021, σ(0.3) = 0.574443
    chosen, rejected = tensor(CHOSEN), tensor(REJECTED)
    assert losses.apo_zero(chosen, rejected, 0.1).item() == pytest.approx(1 - 0.549834 + 0.475021, abs=2e-6)
    assert losses.apo_down(chosen, rejected, 0.1).item() == pytest.approx(0.549834 + 1 - 0.574443, abs=2e-6)


def test_aot_compares_quantile_with_quantile():
    # policy 5, 1, 3 sorted: 1, 3, 5; reference 0, 4, -2 sorted: -2, 0, 4; differences 3, 3, 1
    found = losses.aot(tensor(5, 1, 3), tensor(0, 4, -2), 0.1)
    assert found.tolist() == pytest.approx([LN_UP[0.3], LN_UP[0.3], LN_UP[0.1]], abs=1e-6)


def test_aot_unpaired_compares_the_chosen_quantiles_with_the_rejected_ones():
    # chosen 2, 0 sorted: 0, 2; rejected -1, 1: differences 1, 1 (pair by pair they are 3 and -1)
    found = losses.aot_unpaired(tensor(2, 0), tensor(-1, 1), 0.1, label_smoothing=0.1)
    assert found.tolist() == pytest.approx([LN_UP[0.1] + 0.1 * 0.1] * 2, abs=1e-6)


def test_sorted_losses_pull_every_pair_alike_in_whatever_order_the_pairs_stand():
    first, second = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    for loss in (losses.aot, losses.aot_unpaired):
        pulls = []
        for rows in (torch.arange(7), order):
            ratios = first[rows].clone().requires_grad_()
            loss(ratios, second[rows], 0.7).sum().backward()
            assert ratios.grad is not None
            pulls.append(ratios.grad)
        assert torch.equal(pulls[0][order], pulls[1])


def test_sorting_one_pair_leaves_the_sigmoid_loss():
    one = losses.aot(tensor(1.0), tensor(-2.0), 0.1), losses.aot_unpaired(tensor(CHOSEN), tensor(REJECTED), 0.1)
    assert [loss.item() for loss in one] == pytest.approx([LN_UP[0.3]] * 2, abs=1e-6)


OF_ONE = {
    "sigmoid": lambda h: sigmoid(h, 0.7, 0.1),
    "hinge": lambda h: losses.hinge(h, 0.7),
    "ipo": lambda h: losses.ipo(h, 0.7),
    "robust": lambda h: losses.robust(h, 0.7, 0.1),
    "exo_pair": lambda h: losses.exo_pair(h, 0.7, 1e-3),
    "discopop": lambda h: losses.discopop(h, 0.7, 0.3),
}
OF_TWO = {
    "nca_pair": lambda w, r: losses.nca_pair(w, r, 0.7),
    "bco_pair": lambda w, r: losses.bco_pair(w, r, 0.7, 0.2),
    "sppo_hard": lambda w, r: losses.sppo_hard(w, r, 0.7),
    "apo_zero": lambda w, r: losses.apo_zero(w, r, 0.7),
    "apo_down": lambda w, r: losses.apo_down(w, r, 0.7),
    "aot": lambda w, r: losses.aot(w, r, 0.7, 0.1),
    "aot_unpaired": lambda w, r: losses.aot_unpaired(w, r, 0.7, 0.1),
}


@pytest.mark.parametrize("name", [*OF_ONE, *OF_TWO])
def test_gradients_are_those_of_finite_differences(name: str):
    inputs = [t.requires_grad_() for t in 2 * torch.randn(2, 6, generator=torch.Generator().manual_seed(1)).double()]
    loss = OF_ONE.get(name) or OF_TWO[name]
    assert torch.autograd.gradcheck(loss, inputs[: 1 if name in OF_ONE else 2])


@pytest.mark.parametrize("name", sorted(OF_ONE.keys() - {"ipo"}))
def test_a_loss_of_the_margin_falls_as_the_margin_grows_to_its_goal(name: str):
    losses = OF_ONE[name](torch.linspace(-30, 1.2, 50, dtype=torch.float64))
    assert (losses.diff() < 0).all()


def test_the_chosen_reward_is_held_up_by_nca_and_pressed_down_by_apo_down():
    # nca: d/dw = -β σ(-βw) + ½ β σ(βw) = -0.1 · 0.450166 + 0.05 · 0.549834 = -0.017525 at w = 2
    chosen, rejected = tensor(CHOSEN).requires_grad_(), tensor(REJECTED)
    (pull,) = torch.autograd.grad(losses.nca_pair(chosen, rejected, 0.1).sum(), chosen)
    assert pull.item() == pytest.approx(-0.017525, abs=1e-6)
    # apo_down: β σ'(0.2) - β σ'(0.3) = 0.1 · (0.247517 - 0.244458) = 0.000306
    (pull,) = torch.autograd.grad(losses.apo_down(chosen, rejected, 0.1).sum(), chosen)
    assert pull.item() == pytest.approx(0.000306, abs=1e-6)


def test_a_likely_pair_weighs_one_and_an_unlikely_one_its_probability():
    # e^(-0.5 - 1) = 0.223130; e^(0.4 - 0.1) > 1 is held at 1
    chosen = tensor(-0.5, 0.4).requires_grad_()
    weights = losses.alignment_weights(chosen, tensor(-1.0, -0.1))
    assert weights.tolist() == pytest.approx([0.223130, 1.0], abs=1e-6)
    assert not weights.requires_grad


def test_tokens_beyond_the_shorter_completion_are_weighed_down_in_the_longer_alone():
    # pair 0: 3 and 1 tokens, so one is shared; pair 1: 2 and 4, so two are
    weights = losses.length_desensitised_weights(torch.tensor([3, 1, 2, 4]), 0.25)
    assert weights.tolist() == [1, 0.25, 0.25, 1, 1, 1, 1, 1, 0.25, 0.25]
    assert weights.dtype == torch.float64
    assert len(losses.length_desensitised_weights(torch.zeros(0, dtype=torch.long), 0.25)) == 0


def test_an_alpha_of_one_weighs_all_tokens_alike():
    assert losses.length_desensitised_weights(torch.tensor([3, 1]), 1.0).tolist() == [1.0] * 4


def test_a_tie_counts_a_half_and_noise_is_a_tie():
    assert accuracy(tensor(2.0, -2.0, 0.0, 5e-5, -5e-5, 2e-4)).tolist() == [1.0, 0.0, 0.5, 0.5, 0.5, 1.0]


def some_scores(rows: slice, weight: torch.Tensor | None = None) -> PairScores:
    columns = (tensor(-3, -4), tensor(-7, -6), tensor(-5, -5), tensor(-6, -8), tensor(4, 4), tensor(4, 4))
    return PairScores(*(column[rows] for column in columns), weight=weight)


def test_metrics_are_means_over_pairs_however_they_were_batched():
    # margins 3 and -1 at β 0.1: rewards' margins 0.3 and -0.1, mean 0.1; accuracy ½
    losses = sigmoid(tensor(3, -1), 0.1)
    whole = PairSums.of(losses, some_scores(slice(None)), 0.1)
    one, other = (PairSums.of(losses[i : i + 1], some_scores(slice(i, i + 1)), 0.1) for i in (0, 1))
    means = whole.means()
    assert means == (one + other).means()
    assert means["loss"] == pytest.approx((0.554355 + 0.744397) / 2, abs=1e-6)
    assert means["margin"] == pytest.approx(0.1)
    assert means["accuracy"] == 0.5
    assert means["ranking_accuracy"] == 1.0
    # log-ratios of chosen: 2 and 1, mean reward 0.15; of rejected: -1 and 2, mean reward 0.05
    assert (means["reward_chosen"], means["reward_rejected"]) == (pytest.approx(0.15), pytest.approx(0.05))
    assert (means["logp_chosen"], means["logp_rejected"]) == (-3.5, -6.5)


def test_the_mean_loss_is_weighted_as_the_data_say_and_the_other_means_are_not():
    means = PairSums.of(tensor(1.0, 5.0), some_scores(slice(None), tensor(3.0, 1.0)), 0.1).means()
    assert means["loss"] == 2.0  # (3 · 1 + 1 · 5) / 4
    assert means["margin"] == pytest.approx(0.1)


def test_sums_over_no_pairs_are_zero_and_divide_by_nothing():
    assert set(PairSums.zero().means().values()) == {0.0}
