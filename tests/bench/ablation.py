"""The ablation: every mechanism of the trainer switched off in turn, the others on.

run as: python -m tests.bench.ablation --profile hh --device cpu
"""

from __future__ import annotations

from tests.bench.campaign import campaign, compare_curves, options, settle, training_entry, workplace
from tests.bench.mechanisms import MECHANISMS


def main() -> None:
    """Measure, compare the curves, write the result."""
    parser = options(__doc__ or "")
    parser.add_argument("--only", nargs="+", choices=sorted(MECHANISMS), default=list(MECHANISMS))
    told = settle(parser.parse_args())
    with workplace() as folder:
        run = campaign("ablation", told, folder)
        arms = [run.ours(), *(run.ours(f"without_{name}", mechanisms_off=(name,)) for name in told.only)]
        run.run(arms, training_entry(run))
        compare_curves(run)
        run.write()


if __name__ == "__main__":
    main()
