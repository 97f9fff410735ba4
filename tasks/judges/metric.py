"""Loads the win-rate metric through `evaluate`, offline and without waiting for torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METRIC = Path(__file__).parent / "win_rate"


def load_metric() -> Any:
    """Return the metric of `tasks/judges/win_rate`, an `evaluate.Metric` that keeps its inputs in memory.

    `evaluate` copies the module into its own cache (`HF_MODULES_CACHE`), named by a hash of the source.
    """
    with _without_transformers():
        import evaluate
    return evaluate.load(str(METRIC), keep_in_memory=True)


@contextlib.contextmanager
def _without_transformers() -> Iterator[None]:
    """Make `import transformers` fail inside the context, unless it is loaded already.

    `evaluate` imports the pipelines of transformers, and with them torch, for evaluators that are not used
    here: seven seconds of start-up. It works without them.
    """
    if "transformers" in sys.modules or "evaluate" in sys.modules:
        yield
        return
    sys.modules["transformers"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["transformers"]
