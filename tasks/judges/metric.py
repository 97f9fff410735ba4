"""Loads the win-rate metric through `evaluate`, offline and without waiting for torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

METRIC = Path(__file__).parent / "win_rate"


def load_metric() -> Any:
    """Return the metric of `tasks/judges/win_rate`, an `evaluate.Metric` that keeps its inputs in memory.

    `evaluate` copies the module into its own cache (`HF_MODULES_CACHE`), named by a hash of the source. It imports the
    pipelines of transformers, and with them torch, for evaluators that are not used here: seven seconds of start-up.
    It works without them, so `import transformers` fails for the moment, unless it is loaded already.
    """
    is_hidden = not {"transformers", "evaluate"} & sys.modules.keys()
    if is_hidden:
        sys.modules["transformers"] = None  # type: ignore[assignment]
    try:
        import evaluate
    finally:
        if is_hidden:
            del sys.modules["transformers"]
    return evaluate.load(str(METRIC), keep_in_memory=True)
