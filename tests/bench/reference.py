"""Scoring the reference: pairs and tokens a second of ours and of TRL's precomputation, in one run.

AgileRL computes its reference in each step and has nothing to compare with.

run as: python -m tests.bench.reference --profile hh --device cpu --peer trl
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.campaign import Arm, Campaign, Outcomes, campaign, options, say, settle, workplace


def scoring_entry(run: Campaign, found: dict[str, Any]) -> Callable[[Arm, Outcomes], dict[str, Any]]:
    """Return how an arm is told in the result; the first arm's log-probabilities are what others are held against."""

    def entry(arm: Arm, outcomes: Outcomes) -> dict[str, Any]:
        first = outcomes[0]
        logps = np.asarray(first["logps"])
        off = float(np.abs(logps - found.setdefault("logps", logps)).max())
        seconds = first["reference_seconds"]
        return {
            "pairs_per_s": len(run.pairs) / seconds,
            "tokens_per_s": int(run.pairs.lengths.sum()) / seconds,
            "peak_bytes": first["peak_bytes"],
            "loss": [],
            "settings": first["notes"],
            "largest_logp_difference": off,
        }

    return entry


def main() -> None:
    """Measure, compare the sums of log-probabilities, write the result."""
    told = settle(options(__doc__ or "").parse_args())
    with workplace() as folder:
        run = campaign("reference", told, folder)
        arms = [run.ours()]
        if "trl" in told.peer:
            sizes = (1, 2, 4, 8) if told.sweep else (told.micro_batch,)
            arms += [run.peer(f"trl_tuned_{size}" if told.sweep else "trl_tuned", micro_batch=size) for size in sizes]
        run.run(arms, scoring_entry(run, {}))
        for name, arm in run.arms.items():
            say(f"{name:24} {arm['tokens_per_s']:9.0f} tokens/s, sums off by {arm['largest_logp_difference']:.1e}")
        run.write()


if __name__ == "__main__":
    main()
