"""Evaluation sets whose prompts are kept out of the pairs: by their words, and by runs of 13 words.

13 words is the run by which GPT-3's authors looked for test text in training text (arXiv:2005.14165, appendix C).
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, DataError
from tasks.core.files import digest_of
from tasks.pairs.forms.choose import AUTO, SAMPLE
from tasks.pairs.forms.form import Form
from tasks.pairs.forms.reader import FormReader
from tasks.pairs.forms.singles import Single, Singles
from tasks.pairs.forms.votes import VoteValues
from tasks.pairs.ingestion.context import find_prompt, read_context
from tasks.pairs.ingestion.counts import Counts
from tasks.pairs.ingestion.folders import TESTED
from tasks.pairs.ingestion.formats import is_no_data
from tasks.pairs.ingestion.reading import Reading, SourceEntry, read_reading
from tasks.pairs.ingestion.sources import Source, find_sources, numbered
from tasks.pairs.ingestion.split import prompt_words
from tasks.pairs.ingestion.turns import Turns, turns_of
from tasks.pairs.raw.cells import Refused, is_blank, json_value, kind
from tasks.pairs.raw.raw_row import RawRow, in_blocks
from tasks.pairs.record.pair import ABSENT, Columns, Message, get_field
from tasks.telemetry.log import get_logger

RUN = 13  # words
_TEXT = ".txt"
_PLACE = "ingest.keep_out"
_READ = ("path", "columns", "form", "where", "ignore")  # the keys of an entry that say where its prompts are
_USUAL = SourceEntry("-", Columns(), AUTO, VoteValues(), "best_worst", 0.0, {}, ())
# Where the prompt stands if it is under none of the columns that pairs have it in; a conversation may end with a reply.
_OTHERS = ("prompt", "messages", "conversation", "conversation_a", "turns", "text", "chosen")
# A word, or a character of a script that is written without spaces (Thai to Khmer, kana, Chinese characters).
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")

_log = get_logger(__name__)


class KeptOut:
    """The prompts of evaluation sets; it can be pickled.

    Attributes:
        prompts: The letters of each prompt, without spaces, and the set that holds it.
        runs: Each run of :data:`RUN` words, and the set that holds it.
    """

    def __init__(self, entries: Iterable[str | SourceEntry] = (), max_unread_share: float = 0.1) -> None:
        """Read the sets that `ingest.keep_out` names.

        Raises:
            ConfigError: An entry has a key that says nothing of prompts.
            DataError: A set cannot be read, or more than ``max_unread_share`` of its rows hold no prompt.
        """
        self.prompts: dict[str, str] = {}
        self.runs: dict[str, str] = {}
        for place, source in _sources(entries):
            with _named(place):
                self._add(source, max_unread_share)

    def _add(self, source: Source, max_unread_share: float) -> None:
        rows, unread = 0, []
        for taken in _read(source):
            rows += 1
            if isinstance(taken, str):
                unread.append(taken)
                continue
            for words in (prompt_words(taken), prompt_words(taken[:1])):  # the whole, and its first question
                if words:
                    self.prompts.setdefault(words.replace(" ", ""), source.name)
            self.runs.update(dict.fromkeys(word_runs(prompt_words(taken)), source.name))

        what = f"{source.name}: {len(unread)} of {rows} rows hold no prompt; the first is {unread[0] if unread else ''}"
        if len(unread) > max_unread_share * rows:
            raise DataError(what, "name its column in the entry: {path: …, columns: {prompt: …}}")
        if unread:
            _log.warning("%s", what)
        _log.info("%s: %d prompts are kept out of the pairs", source.name, rows - len(unread))

    def digest(self) -> str:
        """Return a SHA-256 in hex over all that decides which prompts are kept out, and what is said of them."""
        return digest_of([self.prompts, self.runs])

    def match(self, words: str) -> str | None:
        """Return how a prompt of these words (:func:`split_text`) stands in one of the sets; None if it does not."""
        if not self.prompts:
            return None
        if name := self.prompts.get(words.replace(" ", "")):
            return f"the prompt stands in {name}"
        name = next((self.runs[run] for run in word_runs(words) if run in self.runs), None) if self.runs else None
        return name and f"the prompt shares {RUN} words in a row with a prompt of {name}"


def word_runs(words: str) -> Iterator[str]:
    """Yield each run of :data:`RUN` words of a text (:func:`split_text`)."""
    parts = words.split(" ") if words.isascii() else _WORD.findall(words)
    return (" ".join(parts[i : i + RUN]) for i in range(len(parts) - RUN + 1))


# the sources


def evaluation_sets(entries: Iterable[str | SourceEntry]) -> list[Source]:
    """Return the sources that `ingest.keep_out` names.

    Raises:
        ConfigError: An entry has a key that says nothing of prompts.
        DataError: A file is missing or of no known form, or a glob matches nothing.
    """
    return numbered(source for _, source in _sources(entries))


def _sources(entries: Iterable[str | SourceEntry]) -> Iterator[tuple[str, Source]]:
    """Yield each source, and the key that names it."""
    for number, given in enumerate(entries):
        place, entry = f"{_PLACE}[{number}]", SourceEntry(given) if isinstance(given, str) else given
        for key, value in vars(entry).items():
            if value != getattr(SourceEntry, key, value) and key not in _READ:
                raise ConfigError(f"`{place}.{key}` has no effect on prompts", "delete it")
        reading = read_reading(entry.over(_USUAL), place)
        with _named(place):
            sources = _texts(entry.path) if entry.path.endswith(_TEXT) else find_sources([entry.path], reading)
        yield from ((place, source) for source in sources)


def _texts(pattern: str) -> list[Source]:
    """Return text files as sources of their lines."""
    paths = [Path(pattern)]
    if glob.has_magic(pattern) and not paths[0].exists():
        matching = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 Path.glob takes no absolute pattern
        paths = [path for path in map(Path, matching) if not is_no_data(path.name)]
    if not paths or not all(path.is_file() for path in paths):
        what = f"{pattern} is missing" if paths else f"no file matches {pattern!r}"
        raise DataError(what, "correct `ingest.sources`, or put the file there")
    return [_text_source(path) for path in paths]


def _text_source(path: Path) -> Source:
    name = path.name if path.is_absolute() else path.as_posix()

    def read() -> Iterator[RawRow]:
        with path.open(encoding="utf-8-sig") as stream:
            try:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield RawRow(f"{name}:{number}", {Columns.prompt: line})
            except UnicodeDecodeError as error:
                what = f"{path} is not UTF-8 text: it holds the byte 0x{error.object[error.start]:02x}"
                raise DataError(what, "convert it to UTF-8") from None

    return Source(name, lambda: in_blocks(read()), path)


@contextlib.contextmanager
def _named(place: str) -> Iterator[None]:
    """Name the entry in errors of readers, which speak of `ingest.sources` and of the section's keys."""
    try:
        yield
    except (ConfigError, DataError) as error:
        keys = Reading(places={"sources": _PLACE, **{key: f"{place}.{key}" for key in _READ}})
        what, todo = keys.named(error.what), keys.named(error.todo.partition(TESTED)[0])
        raise type(error)(f"`{place}`: {what}" if place not in what else what, todo) from None


# the rows


def _read(source: Source) -> Iterator[Turns | str]:
    """Yield the prompt of each row that the filter lets through as turns, or why there is none."""
    reading, counts = source.reading, Counts()
    rows = source.read()
    first = list(itertools.islice(rows, SAMPLE))
    objects = [row.value for row in first if isinstance(row.value, dict)]
    reader = FormReader(objects, reading.forms, reading.columns, reading.ignored)
    if reader.form:
        _log.info("%s: read as %s", source.name, reader.about)
    for row in itertools.chain(first, rows):
        if isinstance(row.value, dict) and not counts.see_fields(row.value, reading.where):
            continue
        try:
            yield _prompt(row, reader, reading.ignored)
        except Refused as refusal:
            yield f"{row.where}: {refusal.detail}"
    if absent := counts.absent_fields():
        raise DataError(f"{source.name} has no column `{absent[0]}`", "correct the field under `ingest.where`")


def _prompt(row: RawRow, reader: FormReader, ignored: frozenset[str]) -> Turns:
    """Return the turns of a row's prompt, without system turns and a reply at the end."""
    if row.fault or not isinstance(row.value, dict):
        raise Refused("broken_row", row.fault or f"the row is {kind(row.value)}")
    value = {name: cell for name, cell in row.value.items() if name not in ignored}
    if reader.form:
        value = _standard(value, reader.form)
    name, columns = reader.columns.prompt, reader.columns
    prompt = find_prompt(value, columns)
    if is_blank(prompt):
        others = [(other, get_field(row.value, other)) for other in _OTHERS if other not in ignored]
        name, prompt = next(((other, cell) for other, cell in others if not is_blank(cell)), (name, ABSENT))

    turns = () if prompt is ABSENT else read_context(value, columns).history + _turns(prompt, name)
    turns = tuple(turn for turn in turns if turn.role != "system")
    if not turns or (name == "chosen" and len(turns) == 1):
        raise Refused("missing_column", f"no column `{name}`, and none in its place (it has: {', '.join(row.value)})")
    turns = turns[:-1] if len(turns) > 1 and turns[-1].role == "assistant" else turns
    if not any(turn.content.strip() for turn in turns):
        raise Refused("empty_prompt", "the prompt has no text")
    return turns


def _standard(row: dict[str, Any], form: Form) -> dict[str, Any]:
    """Return the row of one pair under standard columns; where a row makes no pair, what all of them would share."""
    if isinstance(form, Singles):
        single = form.singles(row)[0]
        return single.common if isinstance(single, Single) else single
    try:
        return next(pair for pair in form.rows(row) if isinstance(pair, dict))
    except (Refused, StopIteration):
        return form.common(row)


def _turns(prompt: Any, name: str) -> Turns:
    """Return a prompt as turns; a list of texts holds the user's."""
    value = json_value(prompt)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return tuple(Message("user", item) for item in value)
    return turns_of(prompt, name, "assistant" if name == "chosen" else "user")
