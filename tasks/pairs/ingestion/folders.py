"""Folders of files with rows, as people, Spark, Ray Data and the `datasets` library leave them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from tasks.core.errors import DataError
from tasks.pairs.ingestion.formats import has_known_form, is_no_data, read_blocks
from tasks.pairs.raw.raw_row import Block, RawRow
from tasks.telemetry.log import get_logger

_SPLIT = re.compile(r"(train|test|validation|valid|val|dev|eval)(?=[-_.]|$)")
_PARTITION = re.compile(r"([^=/]+)=([^/]*)")
_NULL = "__HIVE_DEFAULT_PARTITION__"

TESTED = "; one to test on alone as "  # how the part of an advice begins that is for sources of pairs alone

_log = get_logger(__name__)


def files_of_folder(folder: Path) -> list[Path]:
    """Return the files of a folder and its sub-folders that hold rows, in the order of their paths.

    What is known to hold no data (README, `.dvc` and dot files) and files without a byte are skipped,
    which the log says once.

    Raises:
        DataError: The folder holds no rows, several splits, a file of no known form, or a table of another kind.
    """
    _check_kind(folder)
    if (folder / "state.json").is_file():
        return _saved_files(folder)
    files: list[Path] = []
    others: list[Path] = []
    empty: list[Path] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if any(is_no_data(part) for part in path.relative_to(folder).parts):
            others.append(path)
        elif not has_known_form(path.name):
            raise DataError(
                f"{path} has no known form", f'move it elsewhere, or name the files, such as "{folder}/*.jsonl"'
            )
        else:
            (files if has_rows(path) else empty).append(path)

    if not files:
        raise DataError(f"{folder} is a folder without rows", "correct `ingest.sources`, or put files there")
    _check_splits(folder, files)
    say_skipped(str(folder), others, "no data")
    say_skipped(str(folder), empty, "empty")
    return files


@dataclasses.dataclass(frozen=True)
class PartitionBlock:
    """Rows of a partition: they have the columns that its folders' names give."""

    block: Block
    columns: tuple[tuple[str, str | None], ...]

    def rows(self) -> Iterator[RawRow]:
        """Yield the rows.

        Raises:
            FormatError: They are not readable as the file's form.
        """
        for row in self.block.rows():
            is_object = isinstance(row.value, dict)
            yield row._replace(value={**dict(self.columns), **row.value}) if is_object else row


def read_part(path: Path, name: str) -> Iterator[Block]:
    """Yield a file's rows; folders named `column=value`, as Spark writes partitions, give the column to each row.

    Raises:
        DataError: The file is not readable as its form.
    """
    matches = filter(None, map(_PARTITION.fullmatch, path.parts[:-1]))
    columns = tuple((unquote(match[1]), None if match[2] == _NULL else unquote(match[2])) for match in matches)
    for block in read_blocks(path, name):
        yield PartitionBlock(block, columns) if columns else block


def say_skipped(source: str, paths: Iterable[Path], why: str) -> None:
    """Log which files of a source are not read, by name."""
    names = [path.name for path in paths]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        _log.info("%s: skipped as %s: %s%s", source, why, ", ".join(names[:5]), more)


def has_rows(path: Path) -> bool:
    """Return False for a part that its writer left without rows: no bytes, or a Parquet file of none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet" or path.stat().st_size == 0:
        return path.stat().st_size > 0
    try:
        return bool(pq.read_metadata(path).num_rows)
    except (pa.ArrowException, OSError):
        return True  # its reader says what is wrong


def _check_kind(folder: Path) -> None:
    """Refuse folders in which a list elsewhere says which of the rows count, and a set of several splits."""
    if (folder / "_delta_log").is_dir():
        advice = "write the version that is meant as Parquet, and name that folder"
        raise DataError(f"{folder} is a Delta table, which also keeps rows that were deleted", advice)
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        _refuse_splits(folder, splits, [f"{folder}/{split}" for split in splits])


def _saved_files(folder: Path) -> list[Path]:
    """Return the files that `save_to_disk` lists; beside them may lie caches with other rows."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{folder / 'state.json'} names no data files", "save the data set again") from None
    if state.get("_indices_data_files"):
        raise DataError(f"{folder} holds a choice of rows", "save `dataset.flatten_indices()` instead")
    return files


def _check_splits(folder: Path, files: list[Path]) -> None:
    """Refuse files that are called train and test: one of them was surely not meant for training."""
    splits: set[str] = set()
    for path in files:
        parts = path.relative_to(folder).parts
        splits.update(match[1] for part in parts if (match := _SPLIT.match(part.lower())))
    if len(splits) > 1:
        _refuse_splits(folder, sorted(splits), [f"{folder}/**/{split}*" for split in sorted(splits)])


def _refuse_splits(folder: Path, splits: list[str], entries: list[str]) -> None:
    what = f"{folder} holds the splits {', '.join(splits)}"
    advice = f"name those that are meant in `ingest.sources`, such as {' or '.join(entries)}"
    raise DataError(what, f"{advice}{TESTED}{{path: {entries[0]}, split: test}}")
