"""Ranks and token budgets: the same curve on any number of either, and what each costs.

Every rank is a process on one thread, on this machine, with gloo. TRL's arms split the same global batch.

run as: python -m tests.bench.scaling --profile hh --peer trl
"""

from __future__ import annotations

from tests.bench.campaign import campaign, compare_curves, options, settle, training_entry, workplace

BUDGETS = (512, 2048, 8192, 65536)


def main() -> None:
    """Measure, compare the curves, write the result."""
    parser = options(__doc__ or "")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    told = settle(parser.parse_args())
    with workplace() as folder:
        run = campaign("scaling", told, folder)
        arms = [run.ours(f"ours_ranks_{ranks}", ranks, threads=1) for ranks in told.ranks]
        arms += [run.ours(f"ours_budget_{tokens}", threads=1, token_budget=tokens) for tokens in BUDGETS]
        if "trl" in told.peer:
            arms += [run.peer(f"trl_tuned_ranks_{ranks}", ranks, threads=1) for ranks in told.ranks]
        run.run(arms, training_entry(run))
        compare_curves(run, arms[0].name)
        run.write()


if __name__ == "__main__":
    main()
