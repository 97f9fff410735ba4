"""Answers of several rows, joined to scores by their key, and to each other by their prompt."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from tasks.pairs.forms.ranked import Answer, pair_up
from tasks.pairs.forms.singles import Single, Singles
from tasks.pairs.raw.cells import Refused
from tasks.pairs.raw.raw_row import RawRow
from tasks.pairs.record.pair import ABSENT, Columns, Rejection


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
    """Collects single answers over all sources; they stay in memory until the last row is read.

    Those of one prompt are paired as the form of the first of them says.

    Attributes:
        number: The number of the source whose rows are added now.
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

    def finish(self) -> Iterator[Outcome]:
        """Yield the pairs of all answers, and why the others make none, each with the answer that it comes from."""
        entries = list(self._joined())
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if isinstance(entry, Entry):
                groups[_prompt_key(entry)].append(entry)
            else:
                yield entry
        for group in groups.values():
            yield from self._by_score(group) if group[0].form.measure != "thumb" else self._by_thumb(group)

    def _joined(self) -> Iterator[Entry | Outcome]:
        """Yield the answers with the scores that stand in other rows, and the rows to which none belongs."""
        scores: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.entries:
            if entry.single.reply is ABSENT:
                scores[entry.single.key].append(entry)

        keys = {entry.single.key for entry in self.entries if entry.single.reply is not ABSENT}
        for entry in self.entries:
            single = entry.single
            if single.reply is ABSENT:
                if single.key not in keys:
                    yield Rejection(entry.where, "unpaired", "no answer has the key of this score"), entry
                continue
            values = {other.single.value for other in scores.get(single.key, ())} | {single.value}
            values.discard(None)
            if len(values) != 1:
                reason = "tie" if values else "no_vote"
                yield Rejection(entry.where, reason, f"the answer has {len(values)} different scores"), entry
            else:
                yield dataclasses.replace(entry, single=dataclasses.replace(single, value=values.pop()))

    def _by_score(self, group: list[Entry]) -> Iterator[Outcome]:
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

    def _by_thumb(self, group: list[Entry]) -> Iterator[Outcome]:
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
    kept = {name: single.common[name] for name in _shaping(entry) if name in single.common}
    line = json.dumps({**kept, "completion": single.reply, "label": single.value == "up"}, default=str) + "\n"
    return Rejection(
        entry.where, "unpaired", f"no other answer to this prompt has the opposite of {single.value}", kept=line
    )


def _prompt_key(entry: Entry) -> str:
    """Return what two answers to one prompt have in common."""
    common = entry.single.common
    shaping: dict[str, Any] = {name: common[name] for name in sorted(_shaping(entry)) if name in common}
    match shaping.get(entry.columns.prompt):
        case [{"role": "user", "content": question, **others}] if not others:  # the same as the question as text
            shaping[entry.columns.prompt] = question
    measure = entry.form.value if entry.form.measure != "thumb" else "thumb"
    return repr((measure, [(name, value) for name, value in shaping.items() if value not in (None, "", [])]))


def _shaping(entry: Entry) -> set[str]:
    """Return the columns that make up the prompt."""
    columns = entry.columns
    return columns.reads() - {columns.slice, columns.weight or "", columns.margin or "", "chosen", "rejected"}
