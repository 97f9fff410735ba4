"""DVC's command line, mended where other users, or other processes of DVC, living or killed, are in its way.

DVC (3.67, dvc.stage.cache) takes the newest file of a stage's folder in the run cache as the stage's last run. That
file may be one that another process is still writing under a temporary name. If it is renamed meanwhile, the stage
fails with FileNotFoundError; if it is read half written, DVC removes it, and the other process fails. So files that are
being written are ignored.

DVC keeps its state, with pickles that it loads, in /var/tmp/dvc by default, where every user of the machine can write.
So it is kept in the checkout.

DVC notes in .dvc/tmp/rwlock who reads and writes which files. If it is killed while it writes that file, every later
DVC fails. So a file that is no JSON, and that nobody is writing, is removed.

run as: python -P run_cache.py repro …      as `dvc repro …`
"""

from __future__ import annotations

import json
import os
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


def site_cache(folder: Path) -> str:
    """Return the folder of DVC's state for the project in ``folder``, made so that no other user can write there."""
    site = folder.resolve() / ".dvc-site"  # as .dvc/config says
    for made in (site, site / "repo"):  # DVC would make them for everybody
        made.mkdir(exist_ok=True, mode=0o700)
        if (mode := made.stat().st_mode) & 0o002:
            made.chmod(mode & ~0o002)
    ignored = site / "repo" / ".gitignore"
    if not ignored.exists():
        ignored.write_text("*\n", encoding="utf-8")
    return str(site)


def remove_torn_lock(folder: Path) -> bool:
    """Remove the rwlock of the project in ``folder`` if a killed DVC left it half written; tell whether it did."""
    from dvc.config import Config
    from dvc.lock import LockError, make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    tmp = folder / ".dvc" / "tmp"
    path = tmp / RWLOCK_FILE
    if not path.is_file():
        return False
    is_hardlink = Config(str(folder / ".dvc"))["core"].get("hardlink_lock", False)
    try:
        # who writes the file holds this lock, and loses it when killed
        with make_lock(str(tmp / RWLOCK_LOCK), tmp_dir=str(tmp), hardlink_lock=is_hardlink):
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                path.unlink()
                return True
    except LockError:
        pass  # somebody is writing it
    return False


if __name__ == "__main__":
    from dvc.cli import main
    from dvc.env import DVC_SITE_CACHE_DIR

    os.environ.setdefault(DVC_SITE_CACHE_DIR, site_cache(Path()))
    if remove_torn_lock(Path()):
        print("removed .dvc/tmp/rwlock, which a killed DVC left half written", file=sys.stderr)
    cache.StageCache._load = last_run
    sys.exit(main(sys.argv[1:]))
