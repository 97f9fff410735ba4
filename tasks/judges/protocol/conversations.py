"""The conversations of held-out prompts, from the table that `ingest` wrote."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import ArtifactError
from tasks.core.files import table_files
from tasks.judges.protocol.protocol import Turn


def conversations(pairs: Path, prompt_ids: Collection[str]) -> dict[str, tuple[Turn, ...]]:
    """Return the held-out conversations of these ids; those that are none are absent.

    Raises:
        ArtifactError: `test.parquet` is missing or is not what `ingest` writes.
    """
    wanted = set(prompt_ids)
    rows = rows_of(pairs / "test.parquet", ["prompt_id", "prompt"])
    return {row["prompt_id"]: turns_of(row["prompt"]) for row in rows if row["prompt_id"] in wanted}


def turns_of(prompt: str) -> tuple[Turn, ...]:
    """Return the turns of a stored prompt, which is JSON of a text or of messages."""
    value = json.loads(prompt)
    if isinstance(value, str):
        return (Turn("user", value),)
    return tuple(Turn(turn["role"], turn["content"]) for turn in value)


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of a table that `ingest` wrote, with these columns.

    Raises:
        ArtifactError: It is missing or is not readable, or lacks a column.
    """
    try:
        for file in table_files(path):
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(columns=columns):
                    yield from _checked(batch, columns, path)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(f"{path} is not readable Parquet ({error})", "run `dvc repro -f ingest`") from None


def _checked(batch: pa.RecordBatch, columns: Sequence[str], path: Path) -> list[dict[str, str]]:
    if missing := [name for name in columns if name not in batch.schema.names]:
        raise ArtifactError(f"{path} has no column `{missing[0]}`", "run `dvc repro -f ingest`")
    rows: list[dict[str, str]] = batch.to_pylist()
    return rows
