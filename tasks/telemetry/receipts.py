"""The receipt of each stage run: inputs, versions, seconds, memory, and how it ended.

`runs/receipts/<stage>.json` is rank 0's. Another rank leaves `<stage>.rank<N>.json` only where it fails.
"""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import Any

from tasks.core import paths, ranks
from tasks.core.errors import PipelineError
from tasks.core.files import pretty_json, read_json, write_text
from tasks.core.versions import versions
from tasks.telemetry import log, provenance

Receipt = dict[str, Any]

_open: Receipt = {}
_began = 0.0


def begin(stage: str) -> None:
    """Open the receipt of a stage that starts now, and remove those that an earlier run left."""
    global _began
    for number, path in receipts_of_others(stage).items():
        # each rank removes its own, and rank 0 those of ranks that no longer exist
        if number == ranks.rank() or (ranks.is_main() and number >= ranks.world_size()):
            remove(path)
    _open.clear()
    _open.update(stage=stage, started=provenance.now(), ended=None, status="running")
    if run := log.run_id():
        _open["run"] = run
    _began = time.monotonic()


def note(**facts: Any) -> None:
    """Add facts (throughput, counts, cache hits) to the receipt of the stage that is running."""
    _open.setdefault("notes", {}).update(facts)


def note_params(digest: str) -> None:
    """Add the digest of the stage's params."""
    _open["params"] = digest


def close(status: str, error: BaseException | None = None) -> bool:
    """Write the receipt; a full disk must not hide the error that it would record.

    Returns:
        Whether it was written. A rank other than rank 0 writes one only where it fails.
    """
    if status == "ok" and not ranks.is_main():
        return False
    _open.update(
        status=status,
        ended=provenance.now(),
        seconds=round(time.monotonic() - _began, 3),
        error=None if error is None else f"{type(error).__name__}: {error}",
        ranks=ranks.world_size(),
        machine=provenance.machine(),
        versions=versions(),
        peak_memory_bytes=provenance.peak_memory_bytes(),
        **({} if ranks.is_main() else {"rank": ranks.rank()}),
    )
    try:
        write_text(receipt_path(str(_open["stage"]), ranks.rank()), pretty_json(_open))
    except OSError:
        return False
    return True


def receipt_path(stage: str, number: int = 0, root: Path = Path()) -> Path:
    """Return the path of the newest receipt of rank ``number`` of a stage, in the checkout at ``root``."""
    return root / paths.RECEIPTS / (f"{stage}.rank{number}.json" if number else f"{stage}.json")


def read_receipts(stage: str) -> dict[int, Receipt]:
    """Return the receipts of a stage that can be read, by rank, the oldest first."""
    entries = []
    for number, path in {0: receipt_path(stage), **receipts_of_others(stage)}.items():
        with contextlib.suppress(OSError, PipelineError):
            receipt = read_json(path)
            if isinstance(receipt, dict) and "status" in receipt:
                entries.append((path.stat().st_mtime_ns, number, {**receipt, "rank": number} if number else receipt))
    return {number: receipt for _, number, receipt in sorted(entries, key=lambda entry: entry[:2])}


def receipts_of_others(stage: str) -> dict[int, Path]:
    """Return the existing receipts of ranks other than rank 0, by rank."""
    form = re.compile(rf"{re.escape(stage)}\.rank([1-9][0-9]*)\.json")
    files: list[Path] = []
    with contextlib.suppress(OSError):
        files = list(paths.RECEIPTS.iterdir())
    return {int(match[1]): path for path in files if (match := form.fullmatch(path.name))}


def remove(path: Path) -> None:
    """Remove a receipt, if it can be removed."""
    with contextlib.suppress(OSError):
        path.unlink()
