"""Pairs whose better answer is known: what a judge is measured on before it judges answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.core.errors import DataError
from tasks.core.files import sha256_bytes
from tasks.core.json_lines import read_json_lines
from tasks.judges.games.games import Comparison
from tasks.judges.protocol.conversations import rows_of, turns_of
from tasks.judges.protocol.protocol import Answer, Prompt, Turn
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.reading import Reading
from tasks.pairs.ingestion.sources import find_sources
from tasks.pairs.record.pair import Pair

PromptEncoder = Callable[[Pair], tuple[int, ...]]
MAX_REJECTED_SHARE = 0.01  # of the rows of a file of labelled pairs
_COLUMNS = ["pair_id", "prompt_id", "prompt", "chosen", "rejected"]


def held_out_pairs(pairs: Path, tokens: Path, limit: int) -> list[Comparison]:
    """Return held-out pairs as games that the chosen answer should win, one a prompt, drawn by a hash of their ids.

    The chosen answer is no gold answer here: a judge that is shown the label cannot be measured.

    Args:
        pairs: The folder that `ingest` wrote.
        tokens: The folder that `encode` wrote; pairs that it left out are not drawn.
        limit: The most pairs.

    Raises:
        ArtifactError: A file is missing or is not what its stage writes.
    """
    ids = {row["prompt_id"]: tuple(row["ids"]) for row in read_json_lines(tokens / "prompts.jsonl", "encode", ("ids",))}
    rows = sorted(rows_of(pairs / "test.parquet", _COLUMNS), key=lambda row: sha256_bytes(row["pair_id"].encode()))
    by_prompt = {row["prompt_id"]: row for row in reversed(rows) if row["prompt_id"] in ids}
    drawn = [row for row in rows if by_prompt.get(row["prompt_id"]) is row][:limit]
    return [
        _comparison(row["prompt_id"], turns_of(row["prompt"]), row["chosen"], row["rejected"], ids[row["prompt_id"]])
        for row in drawn
    ]


def pairs_of_file(source: str, limit: int, encoder: PromptEncoder | None = None) -> list[Comparison]:
    """Return the pairs of a file of one's own, read as `ingest` reads a source, one a prompt.

    Args:
        source: The file.
        limit: The most pairs.
        encoder: Gives the tokens of a pair's prompt; None where the judge reads none.

    Raises:
        ConfigError: The source is of a kind that is not read here.
        DataError: It cannot be read, too many of its rows are unusable, or no pair is left.
    """
    intake = Intake()
    rows = intake.read(find_sources([source], Reading()))
    by_prompt: dict[str, Pair] = {}
    for pair in rows:
        if isinstance(pair, Pair):
            by_prompt.setdefault(pair.prompt_id, pair)
    intake.check_share(MAX_REJECTED_SHARE)
    if not by_prompt:
        raise DataError(f"{source} holds no pair", "name a file of prompts with a chosen and a rejected answer")

    drawn = sorted(by_prompt.values(), key=lambda pair: sha256_bytes(pair.pair_id.encode()))[:limit]
    return [
        _comparison(
            *(pair.prompt_id, turns_of(pair.content_json), pair.chosen, pair.rejected),
            encoder(pair) if encoder else (),
        )
        for pair in drawn
    ]


def _comparison(
    prompt_id: str, turns: tuple[Turn, ...], chosen: str, rejected: str, ids: tuple[int, ...]
) -> Comparison:
    return Comparison(prompt_id, 0, Prompt(turns, ids=ids), Answer(chosen), Answer(rejected))
