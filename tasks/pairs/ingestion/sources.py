"""Where preference data come from: files, globs, data sets of the hub, and rows made in Python."""

from __future__ import annotations

import dataclasses
import functools
import glob
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, DataError
from tasks.core.files import sha256_file
from tasks.pairs.ingestion.formats import RawRow, check_readable, read_rows
from tasks.pairs.ingestion.hub import PREFIX, parse_hub, read_hub


@dataclasses.dataclass(frozen=True)
class Source:
    """Something with rows.

    Attributes:
        name: What people call it in messages and in each pair's `source`.
        read: Yields its rows, anew on each call.
        path: The file, where it is one.
    """

    name: str
    read: Callable[[], Iterator[RawRow]]
    path: Path | None = None

    def identity(self) -> str:
        """Return what pins the content: a file's SHA-256, or the name itself (a pinned commit)."""
        return sha256_file(self.path) if self.path else self.name


def find_sources(texts: Iterable[str], made: dict[str, Source] | None = None) -> list[Source]:
    """Return the sources that ``texts`` name, in order; the matches of a glob are sorted.

    Args:
        texts: Paths, globs, `hub:…` data sets, or names of ``made``.
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
        elif "://" in text:
            flag = " --version-aware" if text.startswith("s3://") else ""
            advice = f"import it once with `dvc import-url{flag} {text} data/raw/` and name the file in data/raw"
            raise ConfigError(f"`ingest.sources`: {text!r} is not read directly, for it can move", advice)
        else:
            sources.extend(_file_source(path) for path in _match(text))
    return sources


def rows_source(rows: Iterable[Any], name: str = "rows") -> Source:
    """Make a source of rows at hand: dicts, or a data set of the `datasets` library."""
    return Source(name, lambda: (RawRow(f"{name}:{i}", row) for i, row in enumerate(rows, start=1)))


def _match(text: str) -> list[Path]:
    """Return the one path, or what the glob matches."""
    if Path(text).exists() or not glob.has_magic(text):
        return [Path(text)]
    matches = sorted(path for path in glob.glob(text, recursive=True) if not Path(path).is_dir())  # noqa: PTH207 Path.glob takes no absolute pattern
    if not matches:
        raise DataError(f"no file matches {text!r}", "correct `ingest.sources`, or put files there")
    return [Path(match) for match in matches]


def _file_source(path: Path) -> Source:
    check_readable(path)
    # an absolute path says where somebody's disk is mounted: only the file's name goes into outputs
    name = path.name if path.is_absolute() else path.as_posix()
    return Source(name, lambda: read_rows(path, name), path)
