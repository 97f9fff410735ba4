"""Numbers as charts draw them: rates with intervals, lengths, histograms, curves."""

from __future__ import annotations

import dataclasses

Curve = tuple[tuple[float, float], ...]  # (optimizer step, value)


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share in [0, 1] with its interval."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Spread:
    """Lengths in tokens: of prompts, chosen or rejected answers, or the answers of one side."""

    name: str
    median: float
    p95: float
    longest: int


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of one or two sets of numbers over the same bins.

    Attributes:
        edges: Bin borders, one more than there are bins.
        upper: Name and counts of the set drawn upwards.
        lower: Name and counts of the set drawn downwards; None for none.
        has_overflow: Whether numbers beyond the last edge were put into the last bin.
        unit: What is counted along the bins.
    """

    edges: tuple[float, ...]
    upper: tuple[str, tuple[int, ...]]
    lower: tuple[str, tuple[int, ...]] | None = None
    has_overflow: bool = False
    unit: str = "tokens"
