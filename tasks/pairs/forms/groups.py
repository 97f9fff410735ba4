"""Answers of several rows, joined to scores by their key, and to each other by their prompt."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import operator
import pickle
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tasks.core.errors import StorageError, printable
from tasks.pairs.forms.ranked import Answer, pair_up
from tasks.pairs.forms.singles import Single, Singles
from tasks.pairs.raw.cells import Refused
from tasks.pairs.raw.raw_row import RawRow
from tasks.pairs.record.pair import ABSENT, Columns
from tasks.pairs.record.rejection import Rejection

_MEMORY_KB = 32_768
# Each answer with every score of its key; each score, and whether there is an answer of its key.
_WITH_SCORES = """
SELECT one.number, one.form, one.place, one.is_score, one.single, score.single, answered.key IS NOT NULL
FROM answers AS one
LEFT JOIN answers AS score ON score.key = one.key AND score.is_score = 1 AND one.is_score = 0
LEFT JOIN answered ON answered.key = one.key AND one.is_score = 1
ORDER BY one.number
"""
_IN_GROUPS = """
SELECT first, form, place, single
FROM joined JOIN (SELECT prompt, min(number) AS first FROM joined GROUP BY prompt) USING (prompt)
ORDER BY first, number
"""


@dataclasses.dataclass
class Entry:
    """A single answer, where it was read, by which form, and the number of the source."""

    single: Single
    where: str
    form: Singles
    columns: Columns
    number: int


Outcome = tuple[RawRow | Rejection, Entry]


class Groups:
    """Collects the single answers of a block of rows.

    Attributes:
        number: The number of the source.
        entries: The answers so far.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.entries: list[Entry] = []

    def add(self, form: Singles, columns: Columns, row: RawRow) -> Iterator[RawRow]:
        """Take a row; yield the pairs that it holds by itself.

        Raises:
            Refused: The row holds no answer with a value.
        """
        for single in form.singles(row.value):
            if isinstance(single, Single):
                self.entries.append(Entry(single, row.where, form, columns, self.number))
            else:
                yield RawRow(row.where, single)


class AnswerStore:
    """The single answers of all sources, in a database that uses the disk beyond some megabytes.

    Those of one prompt are paired as the form of the first of them says.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a file of its own, which goes with the connection
        self._execute(f"PRAGMA cache_size = -{_MEMORY_KB}")
        self._execute("PRAGMA journal_mode = OFF")
        self._execute("BEGIN")  # one transaction, for each takes time
        self._execute("CREATE TABLE answers (number INTEGER PRIMARY KEY, form, place, key, is_score, single)")
        self._execute("CREATE TABLE joined (number INTEGER PRIMARY KEY, form, place, prompt, single)")
        self._forms: list[tuple[Singles, Columns, int]] = []

    def extend(self, entries: Iterable[Entry]) -> None:
        """Add answers and scores.

        Raises:
            StorageError: The disk is full.
        """
        for entry in entries:
            single, is_score = entry.single, entry.single.reply is ABSENT
            key = printable(single.key) or None  # NULL, which joins nothing
            values = (self._form(entry), entry.where, key, is_score, pickle.dumps(single))
            self._execute("INSERT INTO answers (form, place, key, is_score, single) VALUES (?, ?, ?, ?, ?)", values)

    def finish(self) -> Iterator[Outcome]:
        """Yield the pairs of all answers, and why the others make none, each with the answer that it comes from.

        Raises:
            StorageError: The disk is full.
        """
        yield from self._join()
        self._execute("CREATE INDEX prompts ON joined (prompt, number)")
        rows = self._rows(_IN_GROUPS)
        for _, some in itertools.groupby(rows, key=operator.itemgetter(0)):
            group = [self._entry(form, place, single) for _, form, place, single in some]
            yield from _by_score(group) if group[0].form.measure != "thumb" else _by_thumb(group)

    def _join(self) -> Iterator[Outcome]:
        """Join answers to the scores that stand in other rows; yield those that have not one score, and lone scores."""
        self._execute("CREATE INDEX keys ON answers (key, is_score)")
        self._execute("CREATE TABLE answered (key PRIMARY KEY) WITHOUT ROWID")
        self._execute("INSERT INTO answered SELECT DISTINCT key FROM answers WHERE is_score = 0 AND key IS NOT NULL")

        for _, some in itertools.groupby(self._rows(_WITH_SCORES), key=operator.itemgetter(0)):
            rows = list(some)
            _, form, place, is_score, single, _, is_answered = rows[0]
            entry = self._entry(form, place, single)
            if is_score:
                if not is_answered:
                    yield Rejection(entry.where, "unpaired", "no answer has the key of this score"), entry
                continue

            scores = [pickle.loads(score) for *_, score, _ in rows if score is not None]
            values = {score.value for score in scores} | {entry.single.value}
            values.discard(None)
            if len(values) != 1:
                reason = "tie" if values else "no_vote"
                yield Rejection(entry.where, reason, f"the answer has {len(values)} different scores"), entry
                continue
            scored = dataclasses.replace(entry.single, value=values.pop())
            prompt = hashlib.sha256(_prompt_key(entry).encode()).digest()
            given = (form, place, prompt, pickle.dumps(scored))
            self._execute("INSERT INTO joined (form, place, prompt, single) VALUES (?, ?, ?, ?)", given)

    def _form(self, entry: Entry) -> int:
        """Return the number of an answer's form, columns and source."""
        form = (entry.form, entry.columns, entry.number)
        last = self._forms[-1] if self._forms else None
        if last is None or not (last[0] is form[0] and last[1] is form[1] and last[2] == form[2]):
            self._forms.append(form)
        return len(self._forms) - 1

    def _entry(self, form: int, place: str, single: bytes) -> Entry:
        singles, columns, number = self._forms[form]
        return Entry(pickle.loads(single), place, singles, columns, number)

    def _execute(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        with _naming_the_disk():
            return self._database.execute(query, values)

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, which also sorts on the disk while they are fetched."""
        rows = self._execute(query)
        while True:
            with _naming_the_disk():
                row = rows.fetchone()
            if row is None:
                return
            yield row


@contextlib.contextmanager
def _naming_the_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        what = f"keeping single answers until all rows are read failed ({error})"
        raise StorageError(what, "free some space in the folder for temporary files and run again") from None


def _by_score(group: list[Entry]) -> Iterator[Outcome]:
    answers = [Answer(entry.single.reply, float(entry.single.value or 0.0), origin=entry) for entry in group]
    try:
        pairs = pair_up(answers, group[0].form.pairing, group[0].form.min_gap)
    except Refused as refusal:
        for entry in group:
            yield Rejection(entry.where, refusal.reason, refusal.detail), entry
        return
    is_rank = group[0].form.measure == "rank"
    for better, worse in pairs:
        margin = {} if is_rank else {"margin": better.score - worse.score}
        yield _pair(better.origin, worse.origin, margin)


def _by_thumb(group: list[Entry]) -> Iterator[Outcome]:
    ups = [entry for entry in group if entry.single.value == "up"]
    downs = [entry for entry in group if entry.single.value == "down"]
    is_every = group[0].form.pairing == "all_pairs"
    pairs = list(itertools.product(ups, downs) if is_every else zip(ups, downs, strict=False))
    for up, down in pairs:
        yield _pair(up, down, {})
    paired = {id(entry) for pair in pairs for entry in pair}
    for entry in group:
        if id(entry) not in paired:
            yield _unpaired(entry), entry


def _pair(better: Entry, worse: Entry, margin: dict[str, float]) -> Outcome:
    common = better.single.common
    if not better.form.has_margin or "margin" in common:
        margin = {}
    row = {**common, **margin, "chosen": better.single.reply, "rejected": worse.single.reply}
    return RawRow(better.where, row), better


def _unpaired(entry: Entry) -> Rejection:
    """Return the rejection of a lonely thumb, with its row under TRL's names: prompt, completion, label."""
    single = entry.single
    kept = {name: single.common[name] for name in _shaping(entry.columns) if name in single.common}
    line = json.dumps({**kept, "completion": single.reply, "label": single.value == "up"}, default=str) + "\n"
    return Rejection(
        entry.where, "unpaired", f"no other answer to this prompt has the opposite of {single.value}", kept=line
    )


def _prompt_key(entry: Entry) -> str:
    """Return what two answers to one prompt have in common."""
    common = entry.single.common
    shaping: dict[str, Any] = {name: common[name] for name in _shaping(entry.columns) if name in common}
    match shaping.get(entry.columns.prompt):
        case [{"role": "user", "content": question, **others}] if not others:  # the same as the question as text
            shaping[entry.columns.prompt] = question
    measure = entry.form.value if entry.form.measure != "thumb" else "thumb"
    return repr((measure, [(name, value) for name, value in shaping.items() if value not in (None, "", [])]))


@functools.lru_cache(100)
def _shaping(columns: Columns) -> list[str]:
    """Return the columns that make up the prompt, sorted."""
    beside = {columns.slice, columns.weight or "", columns.margin or "", "chosen", "rejected"}
    return sorted(columns.reads() - beside)
