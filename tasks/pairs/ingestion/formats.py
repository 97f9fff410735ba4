"""Files of rows, by their names: JSON, tables with a separator, Parquet, Arrow, and zip archives of these.

A line that is broken by itself becomes a row with a fault and reading goes on; a file that cannot be
trusted as a whole (truncated, undecodable, empty) is refused.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from tasks.core.errors import DataError, printable
from tasks.pairs.ingestion.arrow_formats import read_arrow, read_parquet
from tasks.pairs.ingestion.text_formats import read_json, read_table
from tasks.pairs.raw.raw_row import Block, FormatError, RawRow

__all__ = ["RawRow", "check_readable", "has_known_form", "is_no_data", "read_blocks", "read_rows", "rows_of"]

_Reader = Callable[[IO[bytes], str], Iterator[Block]]
_json_lines = functools.partial(read_json, lines=True)
_TEXTS: dict[str, _Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": functools.partial(read_json, lines=False),
    ".csv": functools.partial(read_table, usual=","),
    ".tsv": functools.partial(read_table, usual="\t"),
}
_TABLES: dict[str, _Reader] = {".parquet": read_parquet, ".arrow": read_arrow, ".feather": read_arrow}
_COMPRESSED = (".gz", ".zst")
_ZIP = ".zip"

_SPREADSHEET = ("is a spreadsheet", "save it as CSV UTF-8 in the program that made it")
_ARCHIVE = ("is an archive", "unpack it, and name its files or folder in `ingest.sources`")
_COMPRESSED_OTHERWISE = ("is compressed in a way that is not read here", "decompress it, or use gzip or zstd")
_PICKLE = ("holds Python objects, which can run code when they are read", "write the rows as JSON lines or Parquet")
_DATABASE = ("is a database", "export its rows as JSON lines, CSV or Parquet")
_UNKNOWN = (
    "has no known form",
    "use .jsonl, .json, .csv or .tsv (also with .gz or .zst), .parquet, .arrow, .feather or .zip",
)
_REFUSED = {
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".xlsb", ".ods"), _SPREADSHEET),
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), _ARCHIVE),
    **dict.fromkeys((".bz2", ".xz", ".lz4", ".br", ".snappy"), _COMPRESSED_OTHERWISE),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".npy", ".npz", ".joblib"), _PICKLE),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3", ".duckdb"), _DATABASE),
    **dict.fromkeys((".avro", ".orc"), ("is a table of a form that is not read here", "write it as Parquet")),
}
_LFS_MAGIC = b"version https://git-lfs.github.com/spec/"

# What lies beside data in folders, archives and globs, and holds none.
_NO_DATA_NAMES = {"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "manifest.json"}
_NO_DATA_BEGINNINGS = (
    *("readme", "license", "licence", "notice", "citation", "changelog", "__macosx", "."),
    *("_success", "_metadata", "_common_metadata", "_committed", "_started"),  # of Spark and Ray Data
)
_NO_DATA_ENDINGS = (".md", ".dvc", ".crc", ".lock")


def read_rows(path: Path, name: str) -> Iterator[RawRow]:
    """Yield the rows of a file; ``name`` is what `where` calls the file.

    Raises:
        DataError: The file is absent, of an unknown form, empty, truncated or not readable as its form.
    """
    for block in read_blocks(path, name):
        yield from rows_of(block, str(path))


def rows_of(block: Block, file: str) -> Iterator[RawRow]:
    """Yield the rows of a block; ``file`` is what an error calls the file.

    Raises:
        DataError: They are not readable as the file's form.
    """
    with _readable(file):
        yield from block.rows()


def read_blocks(path: Path, name: str) -> Iterator[Block]:
    """Yield the rows of a file in blocks; those of one file are the same each time, and stay so if rows are appended.

    Raises:
        DataError: The file is absent, of an unknown form, empty, truncated or not readable as its form.
    """
    check_readable(path)
    is_empty = True
    with _readable(str(path)):
        for block in _read_archive(path, name) if _form(path.name) == _ZIP else _read_file(path, name):
            is_empty = False
            yield block
    if is_empty:
        raise DataError(f"{path} is empty: it holds no rows", "take it out of `ingest.sources`, or fetch it again")


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Turn the errors of reading a file, or a block of it, into one that names the file.

    Raises:
        DataError: Saying what is wrong with it.
    """
    try:
        yield
    except FormatError as error:
        raise DataError(f"{path} {error.what}", error.advice) from None
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # EINVAL: a damaged zip leads before its own beginning
            raise
        raise _damaged(path, error) from None
    except csv.Error as error:
        raise DataError(f"{path} is not a readable CSV file ({error})", "correct or convert it") from None


def _damaged(path: str, error: Exception) -> DataError:
    form = {".zip": "zip", ".zst": "zstd"}.get(PurePosixPath(path).suffix.lower(), "gzip")
    return DataError(f"{path} is a damaged or truncated {form} file ({error})", "fetch it again")


def check_readable(path: Path) -> None:
    """Refuse a path that is no file, whose name does not say which form it has, or that only points to its content.

    Raises:
        DataError: Saying what is there instead.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder", f'name its files in `ingest.sources`, such as "{path}/*.jsonl.gz"')
    if not path.is_file():
        is_tracked = path.with_name(path.name + ".dvc").is_file()
        advice = f"fetch it with `dvc pull {path}`" if is_tracked else "correct `ingest.sources`, or put the file there"
        raise DataError(f"{path} is missing", advice)
    if printable(str(path)) != str(path):
        raise DataError(f"the name of {path} is no UTF-8", "rename it")
    if not has_known_form(path.name):
        what, advice = next(
            (text for ending, text in _REFUSED.items() if ending in PurePosixPath(path.name.lower()).suffixes), _UNKNOWN
        )
        raise DataError(f"{path} {what}", advice)
    with path.open("rb") as stream:
        is_pointer = stream.read(len(_LFS_MAGIC)) == _LFS_MAGIC
    if is_pointer:
        what = f"{path} is a Git LFS pointer: it names the data and does not hold them"
        raise DataError(what, "fetch them with `git lfs pull` in the repository that the file comes from")


def has_known_form(name: str) -> bool:
    """Tell whether files of this name are read."""
    form = _form(name)
    return form in _TEXTS or form == _ZIP or form in _TABLES


def is_no_data(name: str) -> bool:
    """Tell what lies beside data and holds none, such as a README or a `.dvc` file, by its name."""
    lower = name.lower()
    return lower in _NO_DATA_NAMES or lower.startswith(_NO_DATA_BEGINNINGS) or lower.endswith(_NO_DATA_ENDINGS)


def _form(name: str) -> str:
    """Return the ending that says the form: that before `.gz` or `.zst`, which only texts have."""
    path = PurePosixPath(name.lower())
    inner = PurePosixPath(path.stem).suffix
    return inner if path.suffix in _COMPRESSED and inner in _TEXTS else path.suffix


def _read_file(path: Path, name: str) -> Iterator[Block]:
    with path.open("rb") as raw:
        yield from _read_stream(raw, path.name, name)


def _read_stream(raw: IO[bytes], file_name: str, name: str) -> Iterator[Block]:
    """Yield the rows of bytes whose form ``file_name`` says."""
    form = _form(file_name)
    if form in _TABLES:
        yield from _TABLES[form](raw, name)
        return
    if file_name.lower().endswith(".gz"):
        raw = gzip.GzipFile(fileobj=raw)  # type: ignore[assignment]
    elif file_name.lower().endswith(".zst"):
        raw = _zstd(raw)
    yield from _TEXTS[form](raw, name)


def _zstd(raw: IO[bytes]) -> IO[bytes]:
    import pyarrow as pa

    return cast("IO[bytes]", io.BufferedReader(pa.CompressedInputStream(raw, "zstd")))


def _read_archive(path: Path, name: str) -> Iterator[Block]:
    """Yield the rows of a zip's members, in the order of their names."""
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.namelist()):
            if member.endswith("/") or any(is_no_data(part) for part in member.split("/")):
                continue
            if not has_known_form(member) or _form(member) == _ZIP:
                raise FormatError(f"holds {member!r}, which has no known form", _ARCHIVE[1])
            try:
                with archive.open(member) as stream:
                    yield from _read_stream(stream, member, f"{name}/{member}")
            except FormatError as error:
                raise FormatError(f"holds {member!r}, which {error.what}", error.advice) from None
            except RuntimeError as error:  # zipfile's, for a password
                raise FormatError(f"cannot be unpacked ({error})", _ARCHIVE[1]) from None
