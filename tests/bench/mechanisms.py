"""The mechanisms of the trainer by name, each with a way to switch it off for the ablation."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tasks.core.runtime import RuntimeConfig
from tasks.dpo.scoring.scorer import Mechanisms
from tasks.dpo.training import step


@dataclasses.dataclass(frozen=True)
class Setup:
    """The settings of a training run: the runtime, and the mechanisms that the scorer may use."""

    runtime: RuntimeConfig
    mechanisms: Mechanisms = dataclasses.field(default_factory=Mechanisms)


Switch = Callable[[Setup], contextlib.AbstractContextManager[Setup]]


def _without(**off: bool) -> Switch:
    """Return a switch of mechanisms of the scorer."""

    @contextlib.contextmanager
    def switch(setup: Setup) -> Iterator[Setup]:
        yield dataclasses.replace(setup, mechanisms=dataclasses.replace(setup.mechanisms, **off))

    return switch


def _running(**changes: Any) -> Switch:
    """Return a switch that changes the runtime."""

    @contextlib.contextmanager
    def switch(setup: Setup) -> Iterator[Setup]:
        yield dataclasses.replace(setup, runtime=dataclasses.replace(setup.runtime, **changes))

    return switch


@contextlib.contextmanager
def _reference_in_each_step(setup: Setup) -> Iterator[Setup]:
    """Score the reference in every micro-batch, as a trainer without stored log-probabilities does."""
    plain = step.StepGradients._score

    def score(self: step.StepGradients, number: int, part: Any, **options: Any) -> Any:
        scorer = self._scorer
        with torch.no_grad(), scorer.model.disable_adapter():
            scorer.logps(scorer.lay_out([self._train.tokens.row(int(row)) for row in part]))
        return plain(self, number, part, **options)

    step.StepGradients._score = score  # type: ignore[method-assign]
    try:
        yield setup
    finally:
        step.StepGradients._score = plain  # type: ignore[method-assign]


MECHANISMS: dict[str, Switch] = {
    "prefix_sharing": _without(shared_prefix=False),  # and packing: plain rows are padded
    "packing": _running(tokens_per_micro_batch=1),  # one pair a micro-batch, its prompt still shared
    "two_product_head": _without(two_products=False),
    "lean_lora": _without(lean_lora=False),
    "fused_norms_and_gates": _without(fused=False),
    "reference_precompute": _reference_in_each_step,
    "no_gradient_checkpointing": _running(gradient_checkpointing=True),
}


def switched_off(name: str, setup: Setup) -> contextlib.AbstractContextManager[Setup]:
    """Switch one mechanism off for a block, which must use the setup that is yielded.

    Raises:
        KeyError: There is no such mechanism.
    """
    return MECHANISMS[name](setup)
