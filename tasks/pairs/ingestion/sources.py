"""Where preference data come from: files, folders, globs, objects in S3, data sets of the hub, rows made in Python."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, DataError
from tasks.core.files import sha256_file
from tasks.object_store.bucket import SCHEME
from tasks.pairs.ingestion.folders import files_of_folder, has_rows, read_part, say_skipped
from tasks.pairs.ingestion.formats import check_readable, is_no_data, rows_of
from tasks.pairs.ingestion.hub import PREFIX, parse_hub, read_hub
from tasks.pairs.ingestion.reading import Reading, SourceEntry
from tasks.pairs.ingestion.s3_source import parse_s3, read_s3
from tasks.pairs.raw.raw_row import Block, RawRow, in_blocks


@dataclasses.dataclass(frozen=True)
class Source:
    """Something with rows.

    Attributes:
        name: What people call it in messages and in each pair's `source`.
        blocks: Yields its rows in blocks, anew on each call.
        path: The file, where it is one.
        reading: How its rows become pairs.
        entry: The number of its entry in `ingest.sources`.
    """

    name: str
    blocks: Callable[[], Iterator[Block]]
    path: Path | None = None
    reading: Reading = dataclasses.field(default_factory=Reading)
    entry: int = 0

    def read(self) -> Iterator[RawRow]:
        """Yield its rows.

        Raises:
            DataError: It cannot be read.
        """
        for block in self.blocks():
            yield from rows_of(block, self.file)

    @property
    def file(self) -> str:
        """What an error of reading calls it."""
        return str(self.path or self.name)

    def identity(self) -> str:
        """Return what pins the content: a file's SHA-256, or the name itself (a pinned commit or version)."""
        return sha256_file(self.path) if self.path else self.name


def find_sources(
    texts: Iterable[str], reading: Reading | None = None, made: dict[str, Source] | None = None
) -> list[Source]:
    """Return the sources that ``texts`` name, in order; the matches of a glob are sorted.

    Args:
        texts: Paths of files and folders, globs, `s3://…` objects, `hub:…` data sets, or names of ``made``.
        reading: How the rows of all of them are read.
        made: Sources that the caller provides by name (the built-in demo).

    Raises:
        ConfigError: A source is of a kind that is not read here, or is not pinned.
        DataError: A file is missing or of no known form, or a glob matches nothing.
    """
    sources: list[Source] = []
    for text in texts:
        if made and text in made:
            sources.append(made[text])
        elif text.startswith(PREFIX):
            dataset = parse_hub(text)
            sources.append(Source(text, functools.partial(read_hub, dataset)))
        elif text.startswith(SCHEME):
            item = parse_s3(text)
            sources.append(Source(text, functools.partial(read_s3, item)))
        elif "://" in text:
            advice = f"import it once with `dvc import-url {text} data/raw/` and name the file in data/raw"
            raise ConfigError(f"`ingest.sources`: {text!r} is not read directly, for it can move", advice)
        elif Path(text).is_dir():
            sources.extend(_folder_sources(Path(text)))
        elif glob.has_magic(text) and not Path(text).exists():
            sources.extend(_glob_sources(text))
        else:
            sources.append(_file_source(Path(text)))
    return [dataclasses.replace(source, reading=reading) for source in sources] if reading else sources


def find_entries(entries: Iterable[tuple[SourceEntry, Reading]], made: dict[str, Source]) -> list[Source]:
    """Return the sources of all entries of `ingest.sources`, in order; of two with one name the second is numbered.

    Raises:
        ConfigError: As :func:`find_sources`.
        DataError: As :func:`find_sources`.
    """
    return numbered(
        dataclasses.replace(source, entry=number)
        for number, (entry, reading) in enumerate(entries)
        for source in find_sources([entry.path], reading, made)
    )


@contextlib.contextmanager
def hashing(sources: Sequence[Source]) -> Iterator[Callable[[], dict[str, str]]]:
    """Hash the sources in another thread during the block; what it yields returns the identity of each by its name."""
    with ThreadPoolExecutor(1) as thread:
        identities = thread.map(Source.identity, sources)
        yield lambda: dict(zip([source.name for source in sources], identities, strict=True))


def numbered(sources: Iterable[Source]) -> list[Source]:
    """Return the sources; of two with one name the second gets its number behind it."""
    by_name: dict[str, Source] = {}
    for source in sources:
        name = source.name if source.name not in by_name else f"{source.name} ({len(by_name)})"
        by_name[name] = dataclasses.replace(source, name=name)
    return list(by_name.values())


def rows_source(rows: Iterable[Any], name: str = "rows", reading: Reading | None = None) -> Source:
    """Make a source of rows at hand: dicts, or a data set of the `datasets` library."""

    def blocks() -> Iterator[Block]:
        return in_blocks(RawRow(f"{name}:{i}", row) for i, row in enumerate(rows, start=1))

    return Source(name, blocks, reading=reading or Reading())


def _glob_sources(text: str) -> list[Source]:
    """Return the files that a glob matches; a folder among them gives its files, unless `**` reaches them anyway."""
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207 Path.glob takes no absolute pattern
    data = [path for path in matches if not is_no_data(path.name)]
    if "**" in text:
        data = [path for path in data if not path.is_dir()]
    if not data:
        raise DataError(f"no file matches {text!r}", "correct `ingest.sources`, or put files there")

    say_skipped(text, (path for path in matches if is_no_data(path.name)), "no data")
    empty = [path for path in data if path.is_file() and not has_rows(path)]
    if len(empty) < len(data):  # else each is refused by its name
        say_skipped(text, empty, "empty")
        data = [path for path in data if path not in empty]

    sources: list[Source] = []
    for path in data:
        sources.extend(_folder_sources(path) if path.is_dir() else [_file_source(path)])
    return sources


def _folder_sources(folder: Path) -> list[Source]:
    base = folder.parent if folder.is_absolute() else Path()
    return [_file_source(path, path.relative_to(base).as_posix()) for path in files_of_folder(folder)]


def _file_source(path: Path, name: str | None = None) -> Source:
    check_readable(path)
    # an absolute path says where somebody's disk is mounted: only the file's name goes into outputs
    label = name or (path.name if path.is_absolute() else path.as_posix())
    return Source(label, lambda: read_part(path, label), path)
