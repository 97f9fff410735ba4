"""Columns of a source that nobody read: what could shape a prompt or a label is refused, unless it is waived.

A column shapes a prompt by its name (`system`, `tools`, `images`, …) and by holding something. A column that may say
which of two answers is better (`winner`, `label`, …) counts where the replies were named by `ingest.columns`: then the
order of the two is an assumption. Ids, sources, and scores beside a chosen and a rejected reply shape neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from tasks.core.errors import DataError
from tasks.pairs.raw.cells import is_blank

SAMPLE = 1000  # objects after which unread columns are refused, so that a long source is not read in vain

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
    """Watches the rows of one source for columns that should have been read.

    Args:
        source: What the source is called.
        reads: The top-level columns that its form reads.
        ignored: Columns that the user waives (`ingest.ignore`).
        is_order_assumed: The two replies were named by the user, so a column may say otherwise which one is better.
    """

    def __init__(
        self, source: str, reads: Collection[str], ignored: Collection[str], is_order_assumed: bool = False
    ) -> None:
        self._source = source
        self._reads, self._ignored = frozenset(reads), frozenset(ignored)
        self._is_order_assumed = is_order_assumed
        self._watched: dict[tuple[str, ...], tuple[str, ...]] = {}  # by the names of a row's columns
        self._first: dict[str, str] = {}  # where each unread column first held something, in order
        self._objects = 0
        self.unread: dict[str, None] = {}  # every column that nobody reads, in order
        self.ignored: dict[str, None] = {}  # every column that the user waives, in order

    def see(self, row: dict[str, Any], where: str) -> None:
        """Look at one row.

        Raises:
            DataError: An unread column shapes the prompt or the label.
        """
        names = tuple(row)
        watched = self._watched.get(names)
        if watched is None:
            watched = self._watch(names)
        self._objects += 1
        for name in watched:
            if name not in self._first and _is_filled(row[name], name):
                self._first[name] = where
        if self._objects == SAMPLE:
            self.finish()

    def _watch(self, names: tuple[str, ...]) -> tuple[str, ...]:
        waived = [name for name in names if name in self._ignored]
        unread = [name for name in names if isinstance(name, str) and name not in {*self._reads, *waived}]
        self.ignored.update(dict.fromkeys(waived))
        self.unread.update(dict.fromkeys(unread))
        watched = tuple(name for name in unread if self._could_shape(name))
        if len(self._watched) < SAMPLE:
            self._watched[names] = watched
        return watched

    def _could_shape(self, name: str) -> bool:
        return shapes_prompt(name) or (self._is_order_assumed and shapes_label(name))

    def finish(self) -> None:
        """Refuse the source if a column that is not read shapes the prompt or the label.

        Raises:
            DataError: Naming the columns, the first row, and the lines of params that read or waive them.
        """
        if not self._first:
            return
        names = list(self._first)
        shown = ", ".join(f"`{name}`" for name in names)
        first = self._first[names[0]]
        effect = "the prompt" if any(map(shapes_prompt, names)) else "which answer is better"
        raise DataError(
            f"{self._source} has {shown}, which nothing reads, and which may shape {effect} (first in {first})",
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
