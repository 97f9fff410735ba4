"""Log lines and progress bars on standard error, for people and for log collectors.

Two environment variables control it: ``DPO_LOG_FORMAT=json`` makes every line a JSON object (`time`,
`level`, `stage`, `run` where there is one, `rank` off rank 0, `message`) for Loki, CloudWatch and their like;
``DPO_RUN`` is the id of the flow's run that the stage is part of.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
import time
import types
from collections.abc import Callable
from typing import Any

FORMAT = "DPO_LOG_FORMAT"
RUN = "DPO_RUN"
PROGRESS_EVERY_S = 10.0  # between two progress lines, where no bar is drawn
_FORMATS = ("", "text", "json")

_stage = ""


def run_id() -> str:
    """Return the id of the flow's run that this process works for; empty where none started it."""
    return os.environ.get(RUN, "")


def is_json() -> bool:
    """Tell whether every line is to be a JSON object."""
    return os.environ.get(FORMAT, "").lower() == "json"


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; the stage's door sets up where it writes."""
    return logging.getLogger(name)


def set_up(stage: str) -> None:
    """Send the log of this process to standard error, one short line a message; off rank 0 from warnings on."""
    global _stage
    _stage = stage
    level = logging.INFO if _rank() == 0 else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_AsJson() if is_json() else logging.Formatter(f"[{stage}] {_named(_rank())}%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(is_json())
    if is_json():
        sys.excepthook = _log_crash
    for name in ("tasks", "__main__"):  # a stage run with `python -m` is called __main__
        logging.getLogger(name).setLevel(level)
    if (asked := os.environ.get(FORMAT, "")).lower() not in _FORMATS and _rank() == 0:
        get_logger(__name__).warning("%s is %r, which is neither text nor json: it is text", FORMAT, asked)


def say(stage: str, message: str, level: str = "info", rank: int | None = None) -> None:
    """Write one line without a module's logger: how a stage ended, or what its launcher does.

    Args:
        stage: The stage's name.
        message: What to say.
        level: `info`, `warning` or `error`.
        rank: Whose message it is; this process's own where it is left out.
    """
    rank = _rank() if rank is None else rank
    text = f"[{stage}] {'error: ' * (level == 'error')}{_named(rank)}{message}"
    print(_as_json(stage, level, message, rank=rank) if is_json() else text, file=sys.stderr, flush=True)


def bar(what: str, total: int | None = None, done: int = 0, unit: str = "it") -> Any:
    """Return a tqdm bar that starts at ``done``; ``update()`` and ``set_postfix_str()`` move it.

    In a log file it prints a line every ten seconds. Nothing that a result depends on comes out of it.
    """
    if is_json():
        return JsonBar(what, total, done, unit)
    from tqdm import tqdm

    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit == "B",
        disable=_rank() != 0,
        mininterval=0.2 if sys.stderr.isatty() else PROGRESS_EVERY_S,
        file=sys.stderr,
        dynamic_ncols=True,
    )


class JsonBar:
    """A progress bar as JSON lines: one every ten seconds and one at the end, with the counts under `progress`.

    Args:
        what: What is done.
        total: How much there is to do, where that is known.
        done: How much of it is done already.
        unit: What is counted.
        clock: Seconds from any point on.
    """

    def __init__(
        self,
        what: str,
        total: int | None = None,
        done: int = 0,
        unit: str = "it",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._done, self._unit, self._total = what, done, unit, total
        self._clock, self._reported_at, self._reported, self._note = clock, clock(), -1, ""

    def __enter__(self) -> JsonBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """Count ``n`` more as done."""
        self._done += n
        if self._clock() - self._reported_at >= PROGRESS_EVERY_S:
            self._report()

    def set_postfix_str(self, text: str) -> None:
        """Put ``text`` into the next line."""
        self._note = text

    def close(self) -> None:
        """Write a last line, unless the newest one says the same."""
        if self._reported != self._done:
            self._report()

    def _report(self) -> None:
        self._reported_at, self._reported = self._clock(), self._done
        if _rank() != 0:
            return
        share = f"{int(100 * self._done / self._total)}%, " if self._total else ""
        of = f" of {self._total}" if self._total else ""
        text = f"{self._what}: {share}{self._done}{of} {self._unit}{', ' * bool(self._note)}{self._note}"
        count = {"what": self._what, "done": self._done, "total": self._total, "unit": self._unit, "note": self._note}
        print(_as_json(_stage, "info", text, progress=count), file=sys.stderr, flush=True)


class _AsJson(logging.Formatter):
    """Writes a record as one JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        more: dict[str, Any] = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        return _as_json(_stage, record.levelname.lower(), record.getMessage(), record.created, **more)


def _as_json(
    stage: str, level: str, message: str, at: float | None = None, rank: int | None = None, **more: Any
) -> str:
    when = datetime.datetime.fromtimestamp(time.time() if at is None else at, datetime.UTC)
    line: dict[str, Any] = {"time": when.isoformat(timespec="milliseconds"), "level": level, "stage": stage}
    line |= {"run": run_id()} if run_id() else {}
    line |= {"rank": whose} if (whose := _rank() if rank is None else rank) else {}
    return json.dumps({**line, "message": message, **more}, ensure_ascii=False)


def _log_crash(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Write a crash as one object in place of a traceback over many lines."""
    logging.getLogger(__name__).critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _named(rank: int) -> str:
    """Return the prefix of a text line from a rank other than rank 0."""
    return f"rank {rank}: " if rank else ""


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))
