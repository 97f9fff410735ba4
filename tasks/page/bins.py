"""Histograms and quantiles of lengths, and the round numbers on axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tasks.page.measured import Histogram, Spread

Lengths = np.ndarray[Any, Any]

_MOST_BINS = 24


def spread(name: str, lengths: Lengths) -> Spread:
    """Return median, 95th percentile and maximum of one or more lengths."""
    middle, high = np.percentile(lengths, [50, 95])
    return Spread(name, round(float(middle), 1), round(float(high), 1), int(np.max(lengths)))


def histogram(upper: tuple[str, Lengths], lower: tuple[str, Lengths]) -> Histogram:
    """Count two sets of lengths over common bins of a round width, from 0 to the 99th percentile.

    Lengths beyond the last edge are counted in the last bin.
    """
    lengths = np.concatenate([upper[1], lower[1]])
    # up to the 99th percentile, since a single outlier would put all other lengths into the first bin
    longest = int(np.max(lengths))
    reach = max(float(np.percentile(lengths, 99)), 1.0)
    reach = max(longest, 1) if longest <= 1.5 * reach else reach
    width = max(1, math.ceil(round_step(reach / _MOST_BINS)))
    count = max(1, math.floor(reach / width) + 1)
    edges = np.arange(count + 1) * width

    def counted(values: Lengths) -> tuple[int, ...]:
        return tuple(np.histogram(np.minimum(values, edges[-1] - 0.5), edges)[0].tolist())

    return Histogram(
        tuple(float(edge) for edge in edges),
        (upper[0], counted(upper[1])),
        (lower[0], counted(lower[1])),
        longest >= edges[-1],
    )


def round_step(least: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that is at least ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(unit * power for unit in (1.0, 2.0, 2.5, 5.0, 10.0) if unit * power >= least * (1 - 1e-9))


def ticks(low: float, high: float, most: int = 5) -> tuple[float, ...]:
    """Return at most ``most`` + 1 round numbers from at or below ``low`` to at or above ``high``."""
    if high - low <= 1e-9 * max(abs(high), abs(low), 1.0):  # flat, up to rounding
        room = max(abs(high), 1.0) * 0.1
        low, high = low - room, high + room
    step = round_step((high - low) / (most - 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(index * step, 10) for index in range(first, last + 1))
