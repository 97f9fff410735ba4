"""A look at a source before it is ingested: its form, its columns, its first pairs. Nothing is written."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.reading import Reading
from tasks.pairs.ingestion.sources import Source, find_sources
from tasks.pairs.raw.raw_row import in_blocks
from tasks.pairs.record.pair import Pair

ROWS = 1000  # that are read of each file
PAIRS = 3  # that are shown
_WIDTH = 100  # characters of a text that are shown


def try_source(text: str, reading: Reading, limit: float) -> Iterator[str]:
    """Yield the lines that say how a file, glob or hub data set is read; its first 1,000 rows are.

    Args:
        text: An entry of `ingest.sources`.
        reading: How its rows are read.
        limit: `ingest.max_rejected_share`.

    Raises:
        ConfigError: The source is of a kind that is not read here, or is not pinned.
        DataError: It cannot be read, holds an unread column that may shape a pair, or too many rows are unusable.
    """
    for source in find_sources([text], reading):
        intake = Intake()
        first = list(itertools.islice(source.read(), ROWS))
        names = dict.fromkeys(name for row in first if isinstance(row.value, dict) for name in row.value)
        taken = list(intake.read([Source(source.name, functools.partial(in_blocks, first), reading=reading)]))
        intake.check_share(limit)
        pairs = [pair for pair in taken if isinstance(pair, Pair)]

        unread = intake.unread.get(source.name, [])
        yield f"{source.name}: {intake.rows} rows read, {len(pairs)} pairs; {_form(pairs)}"
        yield f"columns read: {', '.join(name for name in names if name not in unread) or 'none'}"
        yield f"columns not read: {', '.join(unread) or 'none'}"
        yield f"read as {intake.forms[source.name]}"
        if intake.rejected:
            yield f"turned away: {', '.join(f'{reason} {count}' for reason, count in intake.rejected.items())}"
        for pair in pairs[:PAIRS]:
            yield from ("", *_show(pair))


def _form(pairs: list[Pair]) -> str:
    """Say what the prompts are."""
    if not pairs:
        return "no form was recognised"
    if all(isinstance(pair.prompt, str) for pair in pairs):
        return "prompts are plain text"
    roles = dict.fromkeys(turn.role for pair in pairs if not isinstance(pair.prompt, str) for turn in pair.prompt)
    return f"prompts are conversations (turns by {', '.join(roles)})"


def _show(pair: Pair) -> Iterator[str]:
    last = pair.prompt if isinstance(pair.prompt, str) else pair.prompt[-1].content
    before = 0 if isinstance(pair.prompt, str) else len(pair.prompt) - 1
    yield f"{pair.source}" + (f" ({before} turns before)" if before else "")
    for name, text in (("prompt", last), ("chosen", pair.chosen), ("rejected", pair.rejected)):
        shown = " ".join(text.split())
        yield f"  {name:<9}{shown[:_WIDTH]}{'…' if len(shown) > _WIDTH else ''}"
