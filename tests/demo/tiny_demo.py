"""A demo model of a few thousand parameters that trains in a second."""

from __future__ import annotations

import dataclasses

from tasks.demo.model.model import DemoModelConfig

TINY = DemoModelConfig(
    vocabulary=400,
    hidden=32,
    intermediate=64,
    layers=1,
    heads=2,
    steps=25,
    talks_per_step=4,
    learning_rate=2e-2,
    good_share=0.2,
    seed=3,
)


def tiny(**changes: float) -> DemoModelConfig:
    """Return the tiny config with some fields changed."""
    return dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]
