"""How often the gate's test errs, and what it finds: the tables of docs/evidence.md, measured by simulation.

run as: python -m tests.estimation.levels            prints the tables (a few minutes)
        python -m tests.estimation.levels --write    writes them into docs/evidence.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tasks.estimation.bounds import p_above
from tasks.estimation.power import smallest_detectable_win_rate, spent_alpha
from tasks.registry.gate.gate import PASSED, GateConfig, decide
from tasks.registry.log.evidence import Evidence, Guard

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evidence.md"
BEGIN, END = "<!-- python -m tests.estimation.levels --write -->", "<!-- end of what is measured -->"
ALPHA, EVEN, LOOKS = 0.05, 0.5, 5
SIZES = (20, 50, 100, 200, 400, 805)
TIES = (0.0, 0.3, 0.6, 0.9)
_GRID = np.linspace(0, 1, 21)


def _beta(a: float, b: float) -> tuple[Floats, Floats]:
    density = stats.beta.pdf(np.clip(_GRID, 0.01, 0.99), a, b)
    return _GRID, density / density.sum()


# soft credits of a candidate that is as good as its opponent: values and their probabilities, with mean one half
SHAPES = {
    "left-skewed: 9 at 0.556, 1 at 0": (np.array([0.0, 5 / 9]), np.array([0.1, 0.9])),
    "far left-skewed: 19 at 0.526, 1 at 0": (np.array([0.0, 10 / 19]), np.array([0.05, 0.95])),
    "right-skewed: 9 at 0.444, 1 at 1": (np.array([4 / 9, 1.0]), np.array([0.9, 0.1])),
    "both orders: 0, ¼, ½, ¾, 1": (np.linspace(0, 1, 5), np.array([0.3, 0.1, 0.2, 0.1, 0.3])),
    "sure judge (U-shaped)": _beta(0.3, 0.3),
    "unsure judge (bell-shaped)": _beta(10, 10),
}


def better(shape: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """The same values, tilted exponentially to a mean of 0.55, or half way to the highest value if that is less."""
    values, chances = shape
    mean = min(0.55, (EVEN + float(values.max())) / 2)
    low, high = -200.0, 200.0
    for _ in range(100):
        tilt = (low + high) / 2
        logs = np.log(chances) + tilt * (values - EVEN)
        tilted = np.exp(logs - logs.max())
        tilted /= tilted.sum()
        low, high = (tilt, high) if tilted @ values < mean else (low, tilt)
    return values, tilted


def p_values(values: Floats, counts: Counts) -> Floats:
    """The gate's p-value of each row of counts; 1 where the mean is less than one standard error above one half."""
    n = counts.sum(axis=1)
    mean = counts @ values / n
    spread = np.sqrt(np.maximum(counts @ values**2 / n - mean**2, 0) / n)
    near = mean > EVEN + spread
    rows, which = np.unique(counts[near], axis=0, return_inverse=True)
    found = np.array([p_above(np.repeat(values, row), EVEN) for row in rows])
    result = np.ones(len(counts))
    result[near] = found[which.ravel()] if len(rows) else []
    return result


def error_over_looks(values: Floats, chances: Floats, n: int, runs: int, seed: int = 0) -> float:
    """How often a candidate that is no better passes one of five looks, at n, 2n … 5n prompts.

    Credits of ties decide nothing, so the p-values of hard verdicts are computed without them.
    """
    rng = np.random.default_rng(seed)
    counts, has_passed = np.zeros((runs, len(values)), dtype=np.int64), np.zeros(runs, dtype=bool)
    is_hard = set(values.tolist()) <= {0.0, EVEN, 1.0}
    for look in range(1, LOOKS + 1):
        counts += rng.multinomial(n, chances, size=runs)
        decided = counts * (values != EVEN) if is_hard else counts
        may_pass = decided.sum(axis=1) > 0
        has_passed[may_pass] |= p_values(values, decided[may_pass]) < spent_alpha(ALPHA, look)
    return float(has_passed.mean())


def hard(ties: float) -> tuple[Floats, Floats]:
    return np.array([0.0, EVEN, 1.0]), np.array([(1 - ties) / 2, ties, (1 - ties) / 2])


# methods to compare: each says in which rows of counts it finds the mean above one half at ALPHA


def by_dirichlet(values: Floats, counts: Counts, rng: np.random.Generator) -> NDArray[np.bool_]:
    return p_values(values, counts) < ALPHA


def by_normal(values: Floats, counts: Counts, rng: np.random.Generator) -> NDArray[np.bool_]:
    mean, se = _moments(values, counts)
    return mean - stats.norm.ppf(1 - ALPHA) * se > EVEN


def by_studentised(values: Floats, counts: Counts, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The bootstrap-t of Efron: resamples of the studentised mean."""
    mean, se = _moments(values, counts)
    finds = np.zeros(len(counts), dtype=bool)
    for row in np.flatnonzero(mean > EVEN):
        n = counts[row].sum()
        means, ses = _moments(values, rng.multinomial(n, counts[row] / n, size=999))
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.nan_to_num((means - mean[row]) / ses, nan=0.0, posinf=np.inf, neginf=-np.inf)
        cut = np.quantile(t, 1 - ALPHA, method="higher")
        finds[row] = mean[row] - (cut * se[row] if se[row] else 0.0) > EVEN
    return finds


def by_betting(values: Floats, counts: Counts, rng: np.random.Generator) -> NDArray[np.bool_]:
    """The capital of a predictable bet against a mean of one half (Waudby-Smith and Ramdas 2024), in random order."""
    credits = rng.permuted(np.array([np.repeat(values, row) for row in counts]), axis=1)
    n = credits.shape[1]
    before = np.arange(1, n + 1)
    means = (EVEN + np.cumsum(credits, axis=1)) / (before + 1)
    spreads = (0.25 + np.cumsum((credits - means) ** 2, axis=1)) / (before + 1)
    known = np.hstack([np.full((len(credits), 1), 0.25), spreads[:, :-1]])
    stakes = np.minimum(np.sqrt(2 * np.log(1 / ALPHA) / (n * known)), 0.75 / EVEN)
    capital = np.cumsum(np.log1p(stakes * (credits - EVEN)), axis=1)
    return np.asarray(capital.max(axis=1) >= np.log(1 / ALPHA))


def _moments(values: Floats, counts: Counts) -> tuple[Floats, Floats]:
    n = counts.sum(axis=1)
    mean = counts @ values / n
    return mean, np.sqrt(np.maximum(counts @ values**2 / n - mean**2, 0) / (n - 1))


METHODS: dict[str, Callable[[Floats, Counts, np.random.Generator], NDArray[np.bool_]]] = {
    "Dirichlet": by_dirichlet,
    "normal": by_normal,
    "studentised": by_studentised,
    "betting": by_betting,
}


def finds(method: str, shape: tuple[Floats, Floats], n: int, runs: int, seed: int = 0) -> float:
    """How often a method finds credits of a shape above one half, at one look."""
    rng = np.random.default_rng(seed)
    values, chances = shape
    return float(METHODS[method](values, rng.multinomial(n, chances, size=runs), rng).mean())


def promoted(duel_rate: float, base_rate: float, champions_rate: float, n: int, runs: int, seed: int = 0) -> float:
    """How often the gate promotes a challenger at look 1: rates head to head, against the base, and the champion's."""
    rng, names = np.random.default_rng(seed), [str(number) for number in range(n)]
    guards = (Guard("judge_agreement", 0.9, 0.5, True),)

    def credits(rate: float) -> dict[str, float]:
        return dict(zip(names, (rng.random(n) < rate).astype(float).tolist(), strict=True))

    outcomes = []
    for _ in range(runs):
        champion = Evidence("a" * 64, "b" * 64, credits(champions_rate), 1.0, guards)
        candidate = Evidence(
            "c" * 64, "b" * 64, credits(base_rate), 1.0, guards, duel_with="a" * 64, duel=credits(duel_rate)
        )
        outcomes.append(decide(candidate, champion, 1, GateConfig()).outcome == PASSED)
    return float(np.mean(outcomes))


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tables(runs: int = 20_000, soft_runs: int = 4_000) -> str:
    """All tables as Markdown."""
    sizes = [f"n {n}" for n in SIZES]
    looks = table(
        ["credits", *sizes],
        (
            [name, *(f"{error_over_looks(*shape, n, count):.4f}" for n in SIZES)]
            for name, shape, count in [
                *((f"wins, losses, ties {ties:g}", hard(ties), runs) for ties in TIES),
                *((name, shape, soft_runs) for name, shape in SHAPES.items()),
            ]
        ),
    )
    some = (20, 50, 200, 805)
    compared = table(
        ["credits", "method", *(f"error, n {n}" for n in some), *(f"power, n {n}" for n in some)],
        (
            [
                name,
                method,
                *(f"{finds(method, shape, n, soft_runs):.3f}" for n in some),
                *(f"{finds(method, better(shape), n, soft_runs // 4):.2f}" for n in some),
            ]
            for name, shape in SHAPES.items()
            for method in METHODS
        ),
    )
    smallest = table(
        ["look", "alpha", *sizes],
        (
            [str(k), f"{level:.5f}", *(f"{100 * smallest_detectable_win_rate(n, level):.1f} %" for n in SIZES)]
            for k in range(1, LOOKS + 1)
            for level in [spent_alpha(ALPHA, k)]
        ),
    )
    equal, worse = (promoted(0.6, rate, 0.7, 200, soft_runs // 4) for rate in (0.7, 0.5))
    noise = (0.05 * 0.95 / soft_runs) ** 0.5
    total = sum(spent_alpha(ALPHA, k) for k in range(1, LOOKS + 1))
    return f"""Chance that a candidate that is no better than its opponent passes one of five looks at growing data, at
n, 2n … 5n prompts ({runs} runs a cell for wins and losses, {soft_runs} for soft credits; the levels of five looks sum
to {total:.4f}):

{looks}

Methods for soft credits beside each other, at one look and alpha {ALPHA:g}: the error where the mean is one half, and
the power where it is 0.55, or 0.528 and 0.513 for the left-skewed ones, which cannot be so high ({soft_runs} runs for
an error, {soft_runs // 4} for a power; the standard error of an error of 0.05 is {noise:.4f}):

{compared}

The smallest true win rate that n prompts show with a power of 80 %, by look (wins and losses without ties):

{smallest}

A challenger that wins 60 % head to head on 200 prompts, where the champion wins 70 % against the base, is promoted at
its first look in {100 * equal:.0f} % of {soft_runs // 4} cases if it is as good as the champion against the base, and
in {100 * worse:.0f} % if it wins only 50 % there.
"""


def main() -> None:
    """Print the tables, or write them into the page."""
    text = tables()
    if "--write" not in sys.argv:
        print(text)
        return
    page = PAGE.read_text(encoding="utf-8")
    between = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    PAGE.write_text(between.sub(lambda _: f"{BEGIN}\n{text}{END}", page), encoding="utf-8")


if __name__ == "__main__":
    main()
