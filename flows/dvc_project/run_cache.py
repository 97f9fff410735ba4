"""DVC's command line with a run cache that several processes can share: it ignores files that are being written.

DVC (3.67, dvc.stage.cache) takes the newest file of a stage's folder in the run cache as the stage's last run. That
file may be one that another process is still writing under a temporary name. If it is renamed meanwhile, the stage
fails with FileNotFoundError; if it is read half written, DVC removes it, and the other process fails.

run as: python -P run_cache.py repro …      as `dvc repro …`
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from dvc.stage import cache

_WHOLE = re.compile(r"[0-9a-f]{64}")


def last_run(runs: Any, stage: Any) -> Any:
    """Return the last run of ``stage``, in its present state, from the run cache; None if there was none.

    A stage that always runs (`register`) is never in it.

    Args:
        runs: DVC's ``StageCache``.
        stage: DVC's stage, with the hashes of its dependencies.
    """
    key = cache._can_hash(stage) and cache._get_stage_hash(stage)
    if not key or not (folder := Path(runs._get_cache_dir(key))).is_dir():
        return None
    entries = [entry for entry in folder.iterdir() if _WHOLE.fullmatch(entry.name)]
    newest = max(entries, key=lambda entry: entry.stat().st_mtime, default=None)
    return newest and runs._load_cache(key, newest.name)


if __name__ == "__main__":
    from dvc.cli import main

    cache.StageCache._load = last_run
    sys.exit(main(sys.argv[1:]))
