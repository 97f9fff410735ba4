"""What a person sees while a stage works: plain lines and progress bars on standard error."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; the stage's door sets up where it writes."""
    return logging.getLogger(name)


def set_up(stage: str) -> None:
    """Send the log of this process to standard error, one short line a message; quiet off rank 0."""
    level = logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR
    logging.basicConfig(level=logging.WARNING, format=f"[{stage}] %(message)s", stream=sys.stderr, force=True)
    for name in ("tasks", "__main__"):  # a stage run with `python -m` is called __main__
        logging.getLogger(name).setLevel(level)


def progress(items: Iterable[T], what: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate with a progress bar on rank 0; in a log file it prints a line every ten seconds."""
    yield from bar(what, total=total, unit=unit, items=items)


def bar(
    what: str, total: int | None = None, done: int = 0, unit: str = "it", items: Iterable[Any] | None = None
) -> Any:
    """Return a tqdm bar that starts at ``done``; ``update()`` and ``set_postfix_str()`` move it."""
    from tqdm import tqdm

    return tqdm(
        items,
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=unit == "B",
        disable=os.environ.get("RANK", "0") != "0",
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
        file=sys.stderr,
        dynamic_ncols=True,
    )
