"""Expectations of the data: limits that end the stage `ingest` before anything is trained on its pairs.

Drift is measured against the version before, whose metrics somebody accepted by copying them to `data/accepted.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.errors import ArtifactError, ConfigError, DataError
from tasks.core.files import read_json
from tasks.telemetry.log import get_logger

# the metrics of the version before; no dependency of the stage, for they change no byte of what it writes
ACCEPTED = Path("data/accepted.json")
LEAKING = "leaking_prompt_share"  # the metric that `max_leaking_share` limits

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Expectations:
    """The limits of `ingest.expect`; None for none.

    Attributes:
        min_train_pairs: Fewest pairs to train on.
        min_test_pairs: Fewest pairs held out.
        max_chosen_longer_share: Largest share of pairs whose chosen reply is longer than the rejected one.
        max_leaking_share: Largest share of test pairs whose prompt has 13 words in a row that a training prompt has.
        max_length_drift: Largest relative change of the mean length of prompts, chosen or rejected replies.
        max_source_drift: Largest change of one source's share of the rows.
    """

    min_train_pairs: int | None = None
    min_test_pairs: int | None = None
    max_chosen_longer_share: float | None = None
    max_leaking_share: float | None = None
    max_length_drift: float | None = None
    max_source_drift: float | None = None

    def __post_init__(self) -> None:
        """Check that each limit can be met and missed.

        Raises:
            ConfigError: Naming the key, and what to write instead.
        """
        for name, limit in self.limits().items():
            is_share = name.endswith("_share") or name == "max_source_drift"
            if limit < 0 or (is_share and limit > 1):
                advice = "write a number from 0 to 1" if is_share else "write 0 or more"
                raise ConfigError(f"`ingest.expect.{name}` is {limit}", advice)

    def limits(self) -> dict[str, float]:
        """Return the limits that are set, by name."""
        return {name: limit for name, limit in dataclasses.asdict(self).items() if limit is not None}


def check_expectations(expected: Expectations, metrics: Mapping[str, Any]) -> None:
    """Refuse data that miss a limit.

    Args:
        expected: The limits.
        metrics: What ingest measured.

    Raises:
        DataError: Naming each limit that is missed, with the value; or the accepted metrics cannot be read.
    """
    limits = expected.limits()
    measures = list(_sizes(metrics))
    if any(name.endswith("_drift") for name in limits):
        measures += _drifts(metrics)

    missed: dict[str, str] = {}  # by the limit's name; of several texts or sources the one that is farthest off
    for name, value, text in sorted(measures, key=lambda measure: -measure[1]):
        if name in limits and (value < limits[name] if name.startswith("min_") else value > limits[name]):
            missed.setdefault(name, f"`{name}` is {limits[name]:g}, and {text}")
    if missed:
        raise DataError(
            f"the data miss limits of `ingest.expect`: {'; '.join(missed[name] for name in limits if name in missed)}",
            "mend the data, or change the limit; where a drift is meant, leave its limit out for one run, and copy "
            f"{paths.PAIRS}/metrics.json to {ACCEPTED} then",
        )


def _sizes(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Yield the limit's name, the value that it is for, and the value in words."""
    train, test = metrics["pairs"]["train"], metrics["pairs"]["test"]
    longer, leaking = metrics["chosen_longer_share"], metrics.get(LEAKING, 0.0)
    yield "min_train_pairs", train, f"there are {train} pairs to train on"
    yield "min_test_pairs", test, f"there are {test} pairs held out"
    yield "max_chosen_longer_share", longer, f"chosen is the longer reply in {longer:g} of the pairs"
    yield (
        "max_leaking_share",
        leaking,
        f"{leaking:.3g} of the test pairs share 13 words in a row with training",
    )


def _drifts(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Yield the same for each mean length and each source, against the version before."""
    if not ACCEPTED.is_file():
        _log.warning("%s is not there, so drift is not checked: copy %s/metrics.json there", ACCEPTED, paths.PAIRS)
        return
    try:
        before = read_json(ACCEPTED)
        lengths, sources = before["characters_mean"], _shares(before)
        for name, now in metrics["characters_mean"].items():
            drift = abs(now - lengths[name]) / max(lengths[name], 1.0)
            yield "max_length_drift", drift, f"the mean of {name} went from {lengths[name]:g} to {now:g} characters"
    except (ArtifactError, AttributeError, LookupError, TypeError):
        advice = f"copy {paths.PAIRS}/metrics.json of accepted data there, or remove it"
        raise DataError(f"{ACCEPTED} does not hold the metrics of ingest", advice) from None

    shares = _shares(metrics)
    for name in sorted(sources | shares):
        then, now = sources.get(name, 0.0), shares.get(name, 0.0)
        yield "max_source_drift", abs(now - then), f"the share of rows of {name} went from {then:.3g} to {now:.3g}"


def _shares(metrics: Mapping[str, Any]) -> dict[str, float]:
    rows = metrics["rows_by_source"]
    return {name: count / max(sum(rows.values()), 1) for name, count in rows.items()}
