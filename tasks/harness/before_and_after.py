"""Tasks of lm-evaluation-harness (the optional extra `benchmarks`), scored without the adapter and with it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, DataError

BATCH = 16  # examples at once
SEED = 0  # of few-shot examples and of the harness's own bootstrap
_RESAMPLES = 1000  # for the standard errors of metrics that are no mean


@dataclasses.dataclass(frozen=True)
class Change:
    """One metric of one task before and after training.

    Attributes:
        examples: Examples of the task that were scored.
        before: Of the base.
        after: With the adapter.
        before_se: Standard error, where the harness gives one.
        after_se: The same.
        drop: How far it became worse; None where the harness does not say which way is better.
    """

    examples: int
    before: float
    after: float
    before_se: float | None
    after_se: float | None
    drop: float | None


def require_harness() -> None:
    """Refuse to go on without the package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"`benchmarks.tasks` needs lm-evaluation-harness ({error})",
            "run `pip install -e .[benchmarks]`",
        ) from None


def before_and_after(
    policy: Any, tokenizer: Any, names: Sequence[str], definitions: Path | None, limit: int | None
) -> dict[str, dict[str, Change]]:
    """Score the tasks twice with the same examples, first without the adapter.

    Args:
        policy: A PEFT model, whose adapter is switched off for the first half.
        tokenizer: The base's.
        names: Tasks or groups of the harness.
        definitions: A folder with task files of one's own.
        limit: The most examples of each task.

    Returns:
        By task and metric.

    Raises:
        ConfigError: A task is not known.
        DataError: The harness fails, as where its data cannot be loaded.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if definitions is None else str(definitions))
    if unknown := [name for name in names if name not in manager.all_tasks]:
        raise ConfigError(f"`benchmarks.tasks` names {unknown[0]!r}, which the harness does not know", _KNOWN)

    score = functools.partial(
        simple_evaluate,
        model=HFLM(pretrained=policy, tokenizer=tokenizer, batch_size=BATCH),
        **{"tasks": list(names), "task_manager": manager, "limit": limit, "log_samples": False},
        **{"bootstrap_iters": _RESAMPLES, "random_seed": SEED, "numpy_random_seed": SEED, "torch_random_seed": SEED},
        fewshot_random_seed=SEED,
    )
    with _harness_errors():
        with policy.disable_adapter():
            before = score()
        return _changes(before, score())


_KNOWN = "`lm_eval ls tasks` lists them; tasks of your own lie in the folder `benchmarks.definitions`"


@contextlib.contextmanager
def _harness_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        what = " ".join(str(error).split())[:300]
        raise DataError(
            f"lm-evaluation-harness failed ({type(error).__name__}: {what})",
            "check the task's data: without the network only data sets in the local cache are found",
        ) from error


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, Change]]:
    changes: dict[str, dict[str, Change]] = {}
    for task, results in before["results"].items():
        for key, value in results.items():
            name, _, part = key.partition(",")
            if not part or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            other, errors = after["results"][task], f"{name}_stderr,{part}"
            is_higher_better = before.get("higher_is_better", {}).get(task, {}).get(name)
            fall = None if is_higher_better is None else (value - other[key]) * (1 if is_higher_better else -1)
            examples = int(before["n-samples"].get(task, {}).get("effective", 0))
            sides = (float(value), float(other[key]), _number(results.get(errors)), _number(other.get(errors)))
            changes.setdefault(task, {})[key] = Change(examples, *sides, fall)
    return changes


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def greatest_drop(changes: dict[str, dict[str, Change]]) -> float:
    """Return how far the metric that fell most became worse; 0 where none did."""
    drops = [change.drop for metrics in changes.values() for change in metrics.values() if change.drop is not None]
    return max(drops, default=0.0)
