"""Columns of a source that nobody read: what could shape a prompt or a label is refused, unless it is waived.

A column shapes a prompt by its name (`system`, `tools`, `images`, …) and by holding something; so does a key of an
object (`meta.system`). A column that may say which of two answers is better (`winner`, `label`, …) counts where the
replies were named by `ingest.columns`: then the order of the two is an assumption. Ids, sources, and scores beside a
chosen and a rejected reply shape neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tasks.core.errors import DataError, printable
from tasks.pairs.raw.cells import is_blank
from tasks.pairs.record.pair import Columns, get_field

_MOST_SHAPES = 1000  # names, and sets of them, that are remembered

# patterns of the single words of a column's name, digits behind them left out
_SYSTEM = r"sys|system|developer|persona|character|preamble"
_TOOLS, _HISTORY = r"tools?|functions?", r"history|dialog(?:ue)?"
_MEDIA = r"images?|audios?|videos?|screenshots?|pictures?|attachments?"
_TEXTS = (
    r"instructions?|inputs?|contexts?|documents?|passages?|paragraphs?|articles?|knowledge|background|scenario|premise"
    r"|evidence|facts|retrieved|search|options|stor(?:y|ies)|tables?|schema|examples|demonstrations|shots?|memory|profile"
    r"|hints?"
)
_THOUGHTS = r"thinking|reasoning|prefill"
_ALONE = re.compile(
    r"posts?|body|request|files?|chat|code"
)  # with other words a name is about something else: `post_url`
_PROMPT_WORDS = re.compile("|".join((_SYSTEM, _TOOLS, _HISTORY, _MEDIA, _TEXTS, _THOUGHTS)))
_LABEL_WORDS = re.compile(
    r"winner|winning|prefer(ence|red)|labels?|better|best|choice|selected|votes?|verdict|scores?|rank(s|ing)?|ratings?"
    r"|gold|target|truth|correct|judge?ments?|decision|outcome|annotat(ors?|ions?)|which|swapped|flipped"
)
# the better answer by its place, or by its model: `better_idx`, `chosen_index`, `winner_model`
_PLACE = re.compile(r"(winner|winning|preferred|better|best|selected|chosen) (idx|index|number|num|side|position)")
_MODEL = re.compile(r"(winner|winning|preferred|better|best|selected) (model|name)")
# a name with one of these is about the column's subject, or about one reply: `input_tokens`, `rating_chosen`
_ABOUT = re.compile(
    r"ids?|idx|index|uuid|hash|sha|md|fingerprint|tokens?|length|len|count|num|number|size|source|dataset|origin"
    r"|models?|type|kind|names?|lang|language|version|date|time|timestamp|created|categor(y|ies)|topic|quality"
    r"|difficulty|reward|configs?|settings?|params|chosen|rejected|raw"
)
_PARTS = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


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
        # the unread columns by the names of a row's columns, and whether each could shape anything
        self._watched: dict[tuple[str, ...], list[tuple[str, bool]]] = {}
        self.unread: dict[str, None] = {}
        self.ignored: dict[str, None] = {}
        self.shaping: dict[str, str] = {}

    def see(self, row: dict[str, Any], where: str) -> None:
        """Look at one row."""
        names = tuple(row)
        watched = self._watched.get(names)
        if watched is None:
            watched = self._watch(names)
        for name, could_shape in watched:
            value = row[name]
            if could_shape:
                if name not in self.shaping and _is_filled(value, name):
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
            if self._could_shape(str(key)) and _is_filled(value[key], str(key)):
                self.shaping[path] = where

    def _watch(self, names: tuple[str, ...]) -> list[tuple[str, bool]]:
        waived = [name for name in names if name in self._ignored]
        unread = [name for name in names if isinstance(name, str) and name not in {*self._reads, *waived}]
        self.ignored.update(dict.fromkeys(waived))
        self.unread.update(dict.fromkeys(map(printable, unread)))
        watched = [(name, self._could_shape(name)) for name in unread]
        if len(self._watched) < _MOST_SHAPES:
            self._watched[names] = watched
        return watched

    def _could_shape(self, name: str) -> bool:
        return shapes_prompt(name) or (self._is_order_assumed and shapes_label(name))


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
    of_prompt = [name for name in names if shapes_prompt(name.rpartition(".")[2])]
    effect = "the prompt" if of_prompt else "which answer is better"
    line = _reading_line(of_prompt[0], columns.prompt) if of_prompt else _winner_line(names, columns)
    advice = f"leave it out on purpose: `ingest.ignore: [{', '.join(names)}]`"
    raise DataError(
        f"{source} has {shown}, which nothing reads, and which may shape {effect} (first in {shaping[names[0]]})",
        f"name it under `ingest.columns`, as in `{line}`; or {advice}" if line else advice,
    )


def _winner_line(names: Sequence[str], columns: Columns) -> str:
    """Return the entry of `ingest.columns` that reads a column as the vote on the two replies; empty for scores."""
    name = names[0]
    if len(names) > 1 or _is_about(name, re.compile("scores?|ratings?|rank(s|ing)?")):
        return ""
    return f"{{first: {columns.chosen}, second: {columns.rejected}, winner: {name}}}"


def _reading_line(name: str, question: str) -> str:
    """Return the entry of `ingest.columns` that reads a column as a part of the prompt; empty where none can."""
    key = name.rpartition(".")[2]
    if _is_about(key, re.compile(f"{_MEDIA}|{_THOUGHTS}")):
        return ""
    for words, column in ((_SYSTEM, "system"), (_TOOLS, "tools"), (_HISTORY, "history")):
        if _is_about(key, re.compile(words)):
            return f"{{{column}: {name}}}"
    return f"{{instruction: {name}, input: {question}, prompt: {question}}}"  # one text above the other


@lru_cache(_MOST_SHAPES)  # keys of objects are looked at in each row
def shapes_prompt(name: str) -> bool:
    """Tell whether a column of this name may be part of the prompt."""
    return _is_about(name, _PROMPT_WORDS) or bool(_ALONE.fullmatch(name.lower()))


@lru_cache(_MOST_SHAPES)
def shapes_label(name: str) -> bool:
    """Tell whether a column of this name may say which answer is better."""
    words = " ".join(_words(name))
    return bool(_PLACE.search(words) or _MODEL.search(words)) or _is_about(name, _LABEL_WORDS)


def _is_about(name: str, subjects: re.Pattern[str]) -> bool:
    words = _words(name)
    return any(map(subjects.fullmatch, words)) and not any(map(_ABOUT.fullmatch, words))


def _words(name: str) -> list[str]:
    return [part.lower().rstrip("0123456789") for part in _PARTS.findall(name)]


def _is_filled(value: Any, name: str) -> bool:
    """Tell whether a value can shape anything: a text, a list or an object with content, or the number of a label."""
    if isinstance(value, list | dict):
        return not all(map(is_blank, value.values() if isinstance(value, dict) else value))
    return not is_blank(value) and (isinstance(value, str) or not shapes_prompt(name))
