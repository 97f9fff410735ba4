"""The door of a stage: binds params, keeps the receipt, and turns an expected error into one line."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from tasks.core import log, paths, provenance, ranks
from tasks.core.errors import PipelineError
from tasks.core.files import digest_of, explain_os_error, pretty_json, write_text
from tasks.core.params import load_section

T = TypeVar("T")
Receipt = dict[str, Any]

_receipt: Receipt = {}


def note(**facts: Any) -> None:
    """Add facts (throughput, counts, cache hits) to the receipt of the stage that is running."""
    _receipt.setdefault("notes", {}).update(facts)


@contextlib.contextmanager
def door(stage: str, owner: type[T]) -> Iterator[T]:
    """Open a stage: yield its params section as ``owner``; on the way out, write its receipt.

    Any :class:`PipelineError` or fault of the disk becomes one line on standard error and the
    error's exit code. Other exceptions are bugs of ours and keep their traceback. A rank other than
    rank 0 leaves a receipt of its own where it fails; see :func:`tasks.core.ranks.launch`.
    """
    log.set_up(stage)
    ranks.sweep_receipts(stage)
    _quiet_libraries()
    _receipt.clear()
    _receipt.update(stage=stage, started=provenance.now(), ended=None, status="running")
    if run := log.run_id():
        _receipt["run"] = run
    began = time.monotonic()
    try:
        config = load_section(paths.PARAMS, stage, owner)
        _receipt["params"] = digest_of(repr(config))
        yield config
        _close("ok", began)
    except PipelineError as error:
        _leave(stage, error, is_kept=_close(error.kind, began, error))
    except OSError as error:
        told = explain_os_error(error)
        is_kept = _close(told.kind if told else "bug", began, told or error)
        if told is None:
            raise
        _leave(stage, told, is_kept)
    except KeyboardInterrupt:
        _close("interrupted", began)
        log.say(stage, "interrupted; what was finished is kept", "warning")
        sys.exit(130)
    except BaseException as error:
        _close("bug", began, error)
        raise


def _leave(stage: str, error: PipelineError, is_kept: bool) -> None:
    """Tell of an error and end; where the launcher finds another rank's receipt, it tells for all that say the same."""
    if ranks.is_main() or not (is_kept and ranks.is_of_launcher()):
        log.say(stage, str(error), "error")
    sys.exit(error.exit_code)


def _close(status: str, began: float, error: BaseException | None = None) -> bool:
    """Write the receipt; a full disk must not hide the error that it would record.

    Returns:
        Whether it stands. Of a rank other than rank 0 there is none where all went well.
    """
    if status == "ok" and not ranks.is_main():
        return False
    _receipt.update(
        status=status,
        ended=provenance.now(),
        seconds=round(time.monotonic() - began, 3),
        error=None if error is None else f"{type(error).__name__}: {error}",
        ranks=ranks.world_size(),
        machine=provenance.machine(),
        versions=provenance.versions(),
        peak_memory_bytes=provenance.peak_memory_bytes(),
        **({} if ranks.is_main() else {"rank": ranks.rank()}),
    )
    try:
        write_text(ranks.receipt_of(str(_receipt["stage"]), ranks.rank()), pretty_json(_receipt))
    except OSError:
        return False
    return True


def receipt_path(stage: str, root: Path = Path()) -> Path:
    """Return where the newest receipt of ``stage`` stands, in the checkout at ``root``."""
    return root / ranks.receipt_of(stage)


def _quiet_libraries() -> None:
    """Keep third-party bars and notices out of the log; nothing here changes a result."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if loaded := sys.modules.get("transformers.utils.logging"):  # it has read those names already
        loaded.set_verbosity_error()
        if os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1":
            loaded.disable_progress_bar()
