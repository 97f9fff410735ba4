"""Leakage: how many held-out prompts are in the training data, word for word or by a long run of shared words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from tasks.core.errors import ArtifactError
from tasks.core.files import table_files
from tasks.judges.rules.texts import ngrams, words

_COLUMNS = ["prompt_id", "prompt"]


@dataclasses.dataclass(frozen=True)
class Leakage:
    """Shares of the held-out prompts, in [0, 1].

    Attributes:
        exact: Prompts that equal a training prompt, case and punctuation aside.
        overlapping: Prompts that share a run of n words with a training prompt (all words of a shorter prompt).
    """

    exact: float
    overlapping: float


def measure_leakage(
    pairs: Path, prompt_ids: Collection[str], ngram: int, added: Mapping[str, str] | None = None
) -> Leakage:
    """Compare the prompts of ``prompt_ids`` with every training prompt.

    Only the n-grams of the held-out prompts are in memory; the training data is streamed.

    Args:
        pairs: The folder that `ingest` wrote.
        prompt_ids: The prompts that were answered.
        ngram: Words in a run that counts as overlap.
        added: Those of them that are not held out, as JSON of a text or of messages, by their id.

    Raises:
        ArtifactError: A held-out prompt is not in `test.parquet`.
    """
    wanted = set(prompt_ids)
    held_out = {name: spoken for name, spoken in _prompts(pairs / "test.parquet") if name in wanted}
    held_out |= {name: words(_spoken(prompt)) for name, prompt in (added or {}).items() if name in wanted}
    if unknown := sorted(wanted - set(held_out)):
        raise ArtifactError(
            f"prompt {unknown[0]} was answered but is not in {pairs}/test.parquet", "run `dvc repro respond`"
        )

    whole: dict[tuple[str, ...], set[str]] = {}
    runs: dict[tuple[str, ...], set[str]] = {}
    for name, spoken in held_out.items():
        whole.setdefault(tuple(spoken), set()).add(name)
        for run in _runs(spoken, ngram):
            runs.setdefault(run, set()).add(name)

    exact: set[str] = set()
    overlapping: set[str] = set()
    for _, spoken in _prompts(pairs / "train.parquet"):
        exact |= whole.get(tuple(spoken), set())
        for run in _runs(spoken, ngram):
            overlapping |= runs.get(run, set())
    return Leakage(len(exact) / len(wanted), len(exact | overlapping) / len(wanted))


def _runs(spoken: list[str], ngram: int) -> list[tuple[str, ...]]:
    return ngrams(spoken, ngram) or [tuple(spoken)]


def _prompts(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the id and the words of each row's prompt."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for file in table_files(path):
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(columns=_COLUMNS):
                    for row in batch.to_pylist():
                        yield row["prompt_id"], words(_spoken(row["prompt"]))
    except (pa.ArrowInvalid, FileNotFoundError, KeyError) as error:
        raise ArtifactError(f"{path} cannot be read as pairs ({error})", "run `dvc repro -f ingest`") from None


def _spoken(prompt: str) -> str:
    """Return the text of a prompt, given as JSON: of all its messages, whatever their role."""
    content = json.loads(prompt)
    return content if isinstance(content, str) else "\n".join(message["content"] for message in content)
