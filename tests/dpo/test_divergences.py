"""The scores that stand for log-ratios under other divergences: by hand, at the limits, far out."""

from __future__ import annotations

import math

import pytest
import torch

from tasks.dpo.objective.divergences import alpha, divergence_score, forward_kl, js, reverse_kl

ALL = [("reverse_kl", 0.5), ("forward_kl", 0.5), ("js", 0.5), ("alpha", 0.5), ("alpha", 1.5), ("alpha", 0.0)]


def tensor(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_scores_of_a_policy_twice_as_likely_by_hand():
    # t = 2: log 2; 1 - 1/2; log(2·2/3) = log 4/3; (2^-½ - 1) / -½ = 2 (1 - 0.707107)
    r = tensor(math.log(2))
    assert reverse_kl(r).item() == pytest.approx(0.693147, abs=1e-6)
    assert forward_kl(r).item() == pytest.approx(0.5)
    assert js(r).item() == pytest.approx(0.287682, abs=1e-6)
    assert alpha(r, 0.5).item() == pytest.approx(0.585786, abs=1e-6)
    # α = 2, a policy three times as likely: (3 - 1) / 1
    assert alpha(tensor(math.log(3)), 2.0).item() == pytest.approx(2.0)


@pytest.mark.parametrize(("name", "order"), ALL)
def test_a_policy_that_is_its_reference_scores_zero(name: str, order: float):
    assert divergence_score(name, order)(tensor(0.0)).item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(("name", "order"), ALL)
def test_a_score_rises_with_the_log_ratio_and_its_gradient_is_that_of_finite_differences(name: str, order: float):
    ratios = torch.linspace(-4, 4, 9, dtype=torch.float64).requires_grad_()
    score = divergence_score(name, order)
    assert (score(ratios).diff() > 0).all()
    assert torch.autograd.gradcheck(score, (ratios,))


def test_alpha_meets_the_forward_kl_at_0_and_the_reverse_kl_at_1():
    ratios = torch.linspace(-4, 4, 9, dtype=torch.float64)
    assert alpha(ratios, 0.0).tolist() == pytest.approx(forward_kl(ratios).tolist(), abs=1e-12)
    assert torch.equal(alpha(ratios, 1.0), ratios)
    assert alpha(ratios, 1 + 1e-5).tolist() == pytest.approx(ratios.tolist(), abs=1e-3)


@pytest.mark.parametrize(("name", "order"), ALL)
def test_far_log_ratios_give_finite_scores_and_gradients(name: str, order: float):
    leaf = torch.tensor([-200.0, -80.5, 0.0, 80.5, 200.0], requires_grad=True)  # float32, as log-probabilities are
    scores = divergence_score(name, order)(leaf.double())
    scores.sum().backward()
    assert torch.isfinite(scores).all()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def test_the_forward_kl_forgets_what_is_likely_and_the_js_has_a_ceiling():
    far = tensor(200.0)
    assert forward_kl(far).item() == 1.0
    assert js(far).item() == pytest.approx(math.log(2))
    assert js(-far).item() == pytest.approx(math.log(2) - 200)
