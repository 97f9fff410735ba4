"""Columns of a source that nobody read: what could shape a prompt or a label is refused, unless it is waived.

A column shapes a prompt by its name (`system`, `tools`, `images`, …) and by holding something. A column that may say
which of two answers is better (`winner`, `label`, …) counts where the replies were named by `ingest.columns`: then the
order of the two is an assumption. Ids, sources, and scores beside a chosen and a rejected reply shape neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from tasks.core.errors import DataError, printable
from tasks.pairs.raw.cells import is_blank

_MOST_SHAPES = 1000  # sets of columns that are remembered

# patterns of the single words of a column's name, digits behind them left out
_PROMPT_WORDS = re.compile(
    r"system|instructions?|inputs?|context|history|tools?|functions?|images?|audios?|videos?|documents?|passages?"
    r"|knowledge|persona|thinking|reasoning"
)
_LABEL_WORDS = re.compile(
    r"winner|winning|prefer(ence|red)|labels?|better|best|choice|selected|votes?|verdict|scores?|rank(s|ing)?|ratings?"
    r"|gold|target|truth|correct|judge?ments?|decision|outcome|annotat(ors?|ions?)"
)
# a name with one of these is about the column's subject, or about one reply: `input_tokens`, `rating_chosen`
_ABOUT = re.compile(
    r"ids?|idx|index|uuid|hash|sha|md|fingerprint|tokens?|length|len|count|num|number|size|source|dataset|origin"
    r"|models?|type|kind|names?|lang|language|version|date|time|timestamp|created|categor(y|ies)|topic|quality"
    r"|difficulty|reward|configs?|settings?|params|chosen|rejected"
)
_PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


class UnreadColumns:
    """Watches rows of one source for columns that should have been read.

    Args:
        reads: The top-level columns that its form reads.
        ignored: Columns that the user waives (`ingest.ignore`).
        is_order_assumed: The two replies were named by the user, so a column may say otherwise which one is better.

    Attributes:
        unread: Every column that nobody reads, in order.
        ignored: Every column that is waived and there, in order.
        shaping: Where each unread column that may shape the prompt or the label first held something, in order.
    """

    def __init__(self, reads: Collection[str], ignored: Collection[str], is_order_assumed: bool = False) -> None:
        self._reads, self._ignored = frozenset(reads), frozenset(ignored)
        self._is_order_assumed = is_order_assumed
        self._watched: dict[tuple[str, ...], tuple[str, ...]] = {}  # by the names of a row's columns
        self.unread: dict[str, None] = {}
        self.ignored: dict[str, None] = {}
        self.shaping: dict[str, str] = {}

    def see(self, row: dict[str, Any], where: str) -> None:
        """Look at one row."""
        names = tuple(row)
        watched = self._watched.get(names)
        if watched is None:
            watched = self._watch(names)
        for name in watched:
            if name not in self.shaping and _is_filled(row[name], name):
                self.shaping[name] = where

    def _watch(self, names: tuple[str, ...]) -> tuple[str, ...]:
        waived = [name for name in names if name in self._ignored]
        unread = [name for name in names if isinstance(name, str) and name not in {*self._reads, *waived}]
        self.ignored.update(dict.fromkeys(waived))
        self.unread.update(dict.fromkeys(map(printable, unread)))
        watched = tuple(name for name in unread if self._could_shape(name))
        if len(self._watched) < _MOST_SHAPES:
            self._watched[names] = watched
        return watched

    def _could_shape(self, name: str) -> bool:
        return shapes_prompt(name) or (self._is_order_assumed and shapes_label(name))


def refuse_unread(source: str, shaping: Mapping[str, str]) -> None:
    """Refuse a source if a column that is not read shapes the prompt or the label.

    Args:
        source: What the source is called.
        shaping: As :attr:`UnreadColumns.shaping`.

    Raises:
        DataError: Naming the columns, the first row, and the lines of params that read or waive them.
    """
    if not shaping:
        return
    names = list(shaping)
    shown = ", ".join(f"`{name}`" for name in names)
    effect = "the prompt" if any(map(shapes_prompt, names)) else "which answer is better"
    raise DataError(
        f"{source} has {shown}, which nothing reads, and which may shape {effect} (first in {shaping[names[0]]})",
        f"name it under `ingest.columns`, or leave it out on purpose: `ingest.ignore: [{', '.join(names)}]`",
    )


def shapes_prompt(name: str) -> bool:
    """Tell whether a column of this name may be part of the prompt."""
    return _is_about(name, _PROMPT_WORDS)


def shapes_label(name: str) -> bool:
    """Tell whether a column of this name may say which answer is better."""
    return _is_about(name, _LABEL_WORDS)


def _is_about(name: str, subjects: re.Pattern[str]) -> bool:
    words = [part.lower().rstrip("0123456789") for part in _PARTS.findall(name)]
    return any(map(subjects.fullmatch, words)) and not any(map(_ABOUT.fullmatch, words))


def _is_filled(value: Any, name: str) -> bool:
    """Tell whether a value can shape anything: a text, a list or an object with content, or the number of a label."""
    if isinstance(value, list | dict):
        return not all(map(is_blank, value.values() if isinstance(value, dict) else value))
    return not is_blank(value) and (isinstance(value, str) or not shapes_prompt(name))
