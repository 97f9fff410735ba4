"""Training: pairs a second, peak memory and the loss curve of this trainer and of its peers, in one run.

run as: python -m tests.bench.train --profile hh --device cpu --peer trl --peer agilerl
"""

from __future__ import annotations

from tests.bench.campaign import (
    Arm,
    Campaign,
    best_micro_batch,
    campaign,
    compare_curves,
    options,
    settle,
    training_entry,
    workplace,
)
from tests.bench.measure import BF16, has_fast_bf16

ARMS_OF_PEER = {"trl": ("trl_tuned", "trl_default"), "agilerl": ("agilerl", "agilerl_no_gc")}
ALSO_IN_BF16 = ("trl_tuned", "agilerl")  # on a CPU that is fast in it; its other arms are in float32


def arms_of(run: Campaign) -> tuple[list[Arm], dict[str, dict[str, float]]]:
    """Return the arms, and what the sweep found of each peer that was swept."""
    has_two = run.told.device == "cpu" and has_fast_bf16("cpu")
    arms, swept = [run.ours(name) for name in ("ours", "ours" + BF16)[: 1 + has_two]], {}
    for peer in run.told.peer:
        size = run.told.micro_batch
        if run.told.sweep:
            size, swept[peer] = best_micro_batch(run, ARMS_OF_PEER[peer][0])
        names = ARMS_OF_PEER[peer]
        names += tuple(name + BF16 for name in names if has_two and name in ALSO_IN_BF16)
        arms += [run.peer(name, micro_batch=size) for name in names]
    return arms, swept


def main() -> None:
    """Measure, compare the curves, write the result."""
    told = settle(options(__doc__ or "").parse_args())
    with workplace() as folder:
        run = campaign("train", told, folder)
        if told.sweep:  # the adapter that all begin with is written by our arm
            run.run([run.ours()], training_entry(run))
        arms, swept = arms_of(run)
        run.run(arms, training_entry(run))
        compare_curves(run)
        run.write(sweep=swept)


if __name__ == "__main__":
    main()
