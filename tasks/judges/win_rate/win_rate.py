"""Win rate over prompts as an `evaluate` metric: a thin wrapper over `tasks.estimation.estimates`.

Load it from the checkout's root with ``evaluate.load("tasks/judges/win_rate")``. `evaluate` copies this
file into its module cache and reads its imports line by line, so each stands on a line of its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import datasets
import evaluate

from tasks.estimation.estimates import consistency, first_position_share, per_prompt, sign_flip_p, win_rate
from tasks.estimation.length_control import length_controlled

DESCRIPTION = """
How often a candidate's answer is preferred to an opponent's, judged in both orders of showing. Orders and
samples are averaged within a prompt first, ties count one half, missing verdicts (NaN) count only
against coverage. The interval is that of a bootstrap over prompts with Dirichlet weights: Clopper and Pearson's
for wins and losses, and against one half the exact sign test's where there are ties.
"""

INPUTS = """
Args:
    prompt_ids: the prompt of each pair of games (several pairs of one prompt are averaged).
    shown_first: the candidate's credit in [0, 1] where its answer was shown first; NaN where missing.
    shown_second: the candidate's credit where its answer was shown second; NaN where missing.
    length_differences (optional keyword): candidate's length minus opponent's, for each pair of games.
    alpha (optional keyword, default 0.05): intervals are at 1 - alpha.
    seed (optional keyword, default 0): of the sign flips and of the length-controlled rate's bootstrap.
Returns:
    prompts, judged, coverage, win_rate, se, low, high, lower_bound, interval_method, wins, ties, losses,
    discrete_rate, p_value, seed, consistency, first_position_share, and with lengths: length_controlled.
Examples:
    >>> metric = evaluate.load("tasks/judges/win_rate", keep_in_memory=True)
    >>> metric.compute(prompt_ids=["a", "b"], shown_first=[1.0, 1.0], shown_second=[1.0, 0.0])["win_rate"]
    0.75
"""


class WinRateMetric(evaluate.Metric):  # type: ignore[misc]
    """The candidate's mean credit over prompts, with interval, p-value and measures of the judge's bias."""

    def _info(self) -> Any:
        kinds = {"prompt_ids": "string", "shown_first": "float64", "shown_second": "float64"}
        features = datasets.Features({name: datasets.Value(kind) for name, kind in kinds.items()})
        return evaluate.MetricInfo(description=DESCRIPTION, citation="", inputs_description=INPUTS, features=features)

    def _compute(
        self,
        prompt_ids: list[str],
        shown_first: list[float],
        shown_second: list[float],
        length_differences: list[float] | None = None,
        alpha: float = 0.05,
        seed: int = 0,
    ) -> dict[str, Any]:
        scores = list(per_prompt(prompt_ids, shown_first, shown_second).values())
        result: dict[str, Any] = dataclasses.asdict(win_rate(scores, alpha))
        result["p_value"] = sign_flip_p(scores, seed)
        result["seed"] = seed
        result["consistency"] = consistency(shown_first, shown_second)
        result["first_position_share"] = first_position_share(shown_first, shown_second)
        if length_differences is not None:
            lengths = list(per_prompt(prompt_ids, length_differences, length_differences).values())
            result["length_controlled"] = dataclasses.asdict(length_controlled(scores, lengths, alpha, seed))
        return result
