"""The head alone: log-probabilities of tokens from hidden states, forward and backward, by several ways.

Time and peak memory of: `two_product` (ours, frozen head), `chunked` (ours, the general path), `plain`
(logits whole, log_softmax), and with `--peer` TRL's and AgileRL's heads. Every way gets the same hidden
states, head, labels and upstream gradient.

run as: python -m tests.bench.head --device cpu --tokens-of-head 2048 --peer trl --peer agilerl
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np

from tests.bench.arm_head import HeadJob
from tests.bench.campaign import Arm, Campaign, Outcomes, campaign, options, say, settle, workplace
from tests.bench.shapes import SHAPES

MODULE = "tests.bench.arm_head"
OURS = ("plain", "chunked", "two_product")
OF_PEER = {"trl": "trl_head", "agilerl": "agilerl_head"}


def arms_of(run: Campaign, tokens: int) -> list[Arm]:
    """Return our ways and the peers'."""
    told, shape = run.told, SHAPES[run.told.model]

    def job(name: str) -> HeadJob:
        return HeadJob(name, told.device, told.threads, tokens, shape.hidden, shape.vocabulary)

    arms = [Arm(name, sys.executable, MODULE, job(name)) for name in OURS]
    return arms + [Arm(OF_PEER[peer], told.python[peer], MODULE, job(OF_PEER[peer])) for peer in told.peer]


def main() -> None:
    """Measure, compare values and gradients with the plain way's, write the result."""
    parser = options(__doc__ or "")
    parser.add_argument("--tokens-of-head", type=int, default=2048, help="completion tokens that meet the head")
    told = settle(parser.parse_args())
    found: dict[str, np.ndarray[Any, Any]] = {}

    def entry(arm: Arm, outcomes: Outcomes) -> dict[str, Any]:
        first = outcomes[0]
        sample = np.asarray(first["sample"])
        off = float(np.abs(sample - found.setdefault("plain", sample)).max())
        return {
            "seconds": first["seconds"],
            "tokens_per_s": arm.job.tokens / first["seconds"],
            "pairs_per_s": arm.job.tokens / first["seconds"] / mean_completions,
            "peak_bytes": first["peak_bytes"],
            "start_bytes": first["start_bytes"],
            "loss": [],
            "largest_difference": off,
        }

    with workplace() as folder:
        run = campaign("head", told, folder)
        mean_completions = float(run.pairs.lengths[:, 1:].sum(axis=1).mean())
        run.run(arms_of(run, told.tokens_of_head), entry)
        for name, arm in run.arms.items():
            own = (arm["peak_bytes"] - arm["start_bytes"]) / 1e6
            say(f"{name:16} {1e3 * arm['seconds']:9.1f} ms, {own:7.0f} MB, off {arm['largest_difference']:.1e}")
        shape = SHAPES[told.model]
        products = {"tokens": told.tokens_of_head, "flops_of_one_product": 2.0 * told.tokens_of_head * shape.hidden}
        products["flops_of_one_product"] *= shape.vocabulary
        run.write(head=products, ways=[dataclasses.asdict(arm.job) for arm in arms_of(run, told.tokens_of_head)])


if __name__ == "__main__":
    main()
