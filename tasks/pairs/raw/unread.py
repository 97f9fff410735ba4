"""Columns of a source that nobody read: what could shape a prompt or a label is refused, unless it is waived.

A column shapes a prompt by its name (`system`, `tools`, `images`, …) and by holding something; so does a key of an
object (`meta.system`). A column that may say which of two answers is better (`label`, `score`, …) counts where the
replies were named by `ingest.columns`: then the order of the two is an assumption. A verdict (`winner`, `swapped`, …)
counts also beside columns that are called chosen and rejected. Ids, sources, and scores beside these shape neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tasks.core.errors import DataError, printable
from tasks.pairs.raw import column_names
from tasks.pairs.raw.cells import is_blank
from tasks.pairs.record.pair import Columns, get_field

_MOST_SHAPES = 1000  # sets of names, and names, that are remembered
_Judge = Callable[[Any], bool]


class UnreadColumns:
    """Watches rows of one source for columns that should have been read.

    Args:
        reads: The top-level columns that its form reads.
        ignored: Columns, and keys of objects (`meta.tools`), that the user waives (`ingest.ignore`).
        opened: Paths of objects of which some keys are read.
        is_order_assumed: The two replies were named by the user, so a column may say otherwise which one is better.

    Attributes:
        unread: Every column that nobody reads, in order.
        ignored: Every column that is waived and there, in order.
        shaping: Where each unread column that may shape the prompt or the label first held something, in order.
    """

    def __init__(
        self,
        reads: Collection[str],
        ignored: Collection[str],
        is_order_assumed: bool = False,
        opened: Collection[str] = (),
    ) -> None:
        self._reads, self._ignored, self._opened = frozenset(reads), frozenset(ignored), tuple(opened)
        self._is_order_assumed = is_order_assumed
        # the unread columns by the names of a row's columns, and what tells whether the value of each shapes anything
        self._watched: dict[tuple[str, ...], list[tuple[str, _Judge | None]]] = {}
        self.unread: dict[str, None] = {}
        self.ignored: dict[str, None] = {}
        self.shaping: dict[str, str] = {}

    def see(self, row: dict[str, Any], where: str) -> None:
        """Look at one row."""
        names = tuple(row)
        watched = self._watched.get(names)
        if watched is None:
            watched = self._watch(names)
        for name, judge in watched:
            value = row[name]
            if judge:
                if name not in self.shaping and judge(value):
                    self.shaping[name] = where
            elif type(value) is dict:
                self._see_object(value, name, where)
        for name in self._opened:
            self._see_object(get_field(row, name), name, where)

    def _see_object(self, value: Any, name: str, where: str) -> None:
        """Look at the keys of an object."""
        for key in value if isinstance(value, dict) else ():
            path = f"{name}.{key}"
            if path in self._ignored:
                self.ignored[path] = None
            if path in self.shaping or path in self._reads or path in self._ignored or path in self._opened:
                continue
            judge = _judge(str(key), self._is_order_assumed)
            if judge and judge(value[key]):
                self.shaping[path] = where

    def _watch(self, names: tuple[str, ...]) -> list[tuple[str, _Judge | None]]:
        waived = [name for name in names if name in self._ignored]
        unread = [name for name in names if isinstance(name, str) and name not in {*self._reads, *waived}]
        self.ignored.update(dict.fromkeys(waived))
        self.unread.update(dict.fromkeys(map(printable, unread)))
        watched = [(name, _judge(name, self._is_order_assumed)) for name in unread]
        if len(self._watched) < _MOST_SHAPES:
            self._watched[names] = watched
        return watched


@lru_cache(_MOST_SHAPES)  # keys of objects are looked at in each row
def _judge(name: str, is_order_assumed: bool) -> _Judge | None:
    """Return what tells whether the value of a column of this name shapes the prompt or the label; None: none does."""
    if column_names.column_shapes_prompt(name):
        return _is_text
    if column_names.contradicts_label(name) or (is_order_assumed and column_names.shapes_label(name)):
        return _is_filled
    if column_names.may_be_category(name):
        return _is_phrase
    return _names_side if column_names.may_name_side(name) else None


def _is_filled(value: Any) -> bool:
    if isinstance(value, list | dict):
        return not all(map(is_blank, value.values() if isinstance(value, dict) else value))
    return not is_blank(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | list | dict) and _is_filled(value)


def _is_phrase(value: Any) -> bool:
    return _is_text(value) and not (isinstance(value, str) and len(value.split()) == 1)


def _names_side(value: Any) -> bool:
    return str(value).strip().lower() in column_names.SIDES


def refuse_unread(source: str, shaping: Mapping[str, str], columns: Columns) -> None:
    """Refuse a source if a column that is not read shapes the prompt or the label.

    Args:
        source: What the source is called.
        shaping: As :attr:`UnreadColumns.shaping`.
        columns: What the columns of the question and of the two replies are called.

    Raises:
        DataError: Naming the columns, the first row, and the lines of params that read or waive them.
    """
    if not shaping:
        return
    names = list(shaping)
    shown = ", ".join(f"`{name}`" for name in names)
    of_prompt = list(filter(_is_of_prompt, names))
    effect = "the prompt" if of_prompt else "which answer is better"
    line = _reading_line(of_prompt[0], columns.prompt) if of_prompt else _winner_line(names, columns)
    advice = f"leave it out on purpose: `ingest.ignore: [{', '.join(names)}]`"
    raise DataError(
        f"{source} has {shown}, which nothing reads, and which may shape {effect} (first in {shaping[names[0]]})",
        f"read it, by a line of `ingest` such as `{line}`; or {advice}" if line else advice,
    )


def _is_of_prompt(path: str) -> bool:
    key = path.rpartition(".")[2]
    return column_names.column_shapes_prompt(key) or column_names.may_be_category(key)


def _winner_line(names: Sequence[str], columns: Columns) -> str:
    """Return the entry of `ingest.columns` that reads a column as the vote on the two replies; empty for scores."""
    name = names[0]
    if len(names) > 1 or column_names.is_about(name, column_names.SCORES) or column_names.says_by_whom(name):
        return ""
    line = f"columns: {{first: {columns.chosen}, second: {columns.rejected}, winner: {name}}}"
    is_flag = column_names.is_about(name, column_names.FLAGS)
    return line + ", votes: {first: [false, 0], second: [true, 1]}" * is_flag


def _reading_line(name: str, question: str) -> str:
    """Return the entry of `ingest.columns` that reads a column as a part of the prompt; empty where none can."""
    key = name.rpartition(".")[2]
    if column_names.is_about(key, f"{column_names.MEDIA}|{column_names.THOUGHTS}|{column_names.TEMPLATE}"):
        return ""
    for words, column in (
        (f"{column_names.SYSTEM}|role", "system"),
        (column_names.TOOLS, "tools"),
        (column_names.HISTORY, "history"),
    ):
        if column_names.is_about(key, words):
            return f"columns: {{{column}: {name}}}"
    return f"columns: {{instruction: {name}, input: {question}, prompt: {question}}}"  # one text above the other
