"""Every published schema of docs/schemas.md is read to the right pairs, or refused with the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tasks import ingest
from tasks.core.errors import DataError
from tasks.core.params import build
from tasks.ingest import IngestConfig
from tasks.pairs.record.pair import Pair, Prompt
from tasks.pairs.record.parquet import stored_pairs
from tests.pairs.schemas.catalogue import GROUPS, PAGE, SCHEMAS, WAITING, page
from tests.pairs.schemas.schema import Schema, Turns


def _turns(prompt: Prompt) -> Turns:
    """The turns of a prompt; a text is what the user says."""
    if isinstance(prompt, str):
        return [("user", prompt)]
    return [(message.role, message.content) for message in prompt]


def _read(schema: Schema, folder: Path) -> list[Pair]:
    """Write the schema's rows, run the stage on them and return the pairs of both sides."""
    section: dict[str, Any] = {
        "sources": [str(schema.write(folder))],
        "test_share": 0.5,
        "split_seed": 1,
        **schema.params,
    }
    ingest.run(ingest.Folders(folder / "out"), build(IngestConfig, section, "ingest"))
    files = [folder / "out" / f"{side}.parquet" for side in ("train", "test")]
    return [pair for file in files for batch in stored_pairs(file) for pair in batch]


def _parameters() -> list[Any]:
    """Every schema; those of WAITING are expected to fail."""
    waits = pytest.mark.xfail(strict=True, reason="no reader yet")
    return [pytest.param(s, id=s.name, marks=[waits] if s.name in WAITING else []) for s in SCHEMAS.values()]


@pytest.mark.parametrize("schema", _parameters())
def test_every_schema_gives_its_pairs_or_its_refusal(schema: Schema, tmp_path: Path) -> None:
    if schema.refused:
        with pytest.raises(DataError, match=re.escape(schema.refused)):
            _read(schema, tmp_path)
        return
    pairs, expected = _read(schema, tmp_path), schema.expected()
    assert sorted((_turns(pair.prompt), pair.chosen, pair.rejected) for pair in pairs) == sorted(
        (wanted.prompt, wanted.chosen, wanted.rejected) for wanted in expected
    )
    margins = {wanted.chosen: wanted.margin for wanted in expected if wanted.margin is not None}
    assert {pair.chosen: pair.margin for pair in pairs if pair.chosen in margins} == margins


def test_at_least_fifty_schemas_are_listed_each_under_its_own_name() -> None:
    assert len(SCHEMAS) == sum(map(len, GROUPS.values())) >= 55
    assert set(SCHEMAS) >= WAITING


def test_the_page_of_schemas_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.pairs.schemas.catalogue --write`"
