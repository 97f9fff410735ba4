"""Reads preference data of any common form into validated pairs, split by prompt into train and test.

reads:  `ingest.sources` (files, globs, pinned hub data sets, or the built-in demo)
writes: data/pairs/ (train.parquet, test.parquet, rejects.jsonl, metrics.json)
params: `ingest` in params.yaml
run as: python -m tasks.ingest
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, Literal

from tasks.core import paths
from tasks.core.files import atomic_folder, pretty_json, write_text
from tasks.core.section import Section, at_least, between, filled
from tasks.demo.preferences.preferences import demo_rows
from tasks.launch.stage import door
from tasks.pairs.ingestion.formats import RawRow
from tasks.pairs.ingestion.intake import Intake, Scalar
from tasks.pairs.ingestion.settle import HELD_OUT, Sorted, sort_pairs, within_limit
from tasks.pairs.ingestion.sources import Source, find_sources
from tasks.pairs.ingestion.split import check_sides, is_held_out
from tasks.pairs.record.pair import Columns, Pair, Rejection
from tasks.pairs.record.parquet import PairWriter
from tasks.telemetry.log import get_logger, progress
from tasks.telemetry.receipts import note

DEMO_PAIRS = 1400  # that the source `demo` makes
DEMO_SEED = 0
_SPILL = "spill.parquet"

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class IngestConfig(Section, path="ingest"):
    """The `ingest` section of params.yaml; its keys are explained there."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "demo_pairs": f"delete it: the demo makes {DEMO_PAIRS} pairs; `ingest.limit` keeps fewer",
        "demo_seed": "delete it: the demo's pairs are always the same",
    }

    sources: Annotated[tuple[str, ...], filled("name at least one source, such as demo")]
    columns: Columns = dataclasses.field(default_factory=Columns)
    where: dict[str, Scalar] = dataclasses.field(default_factory=dict)
    limit: Annotated[int, at_least(2, "or null")] | None = None
    test_share: Annotated[float, between(0, 1, "()")] = 0.1
    split_seed: int = 0
    contradictions: Literal["drop", "keep"] = "drop"
    max_rejected_share: Annotated[float, between(0, 1)] = 0.1


def run(out: Path, config: IngestConfig) -> dict[str, Any]:
    """Read all sources into ``out`` and return the metrics.

    Raises:
        ConfigError: A source is of a kind that is not read here, or is not pinned to a commit.
        DataError: A source cannot be read, too many rows are unusable, or a side of the split is empty.
    """
    sources = find_sources(config.sources, {"demo": _demo()})
    intake = Intake(config.columns, config.where)
    with atomic_folder(out, {"stage": "ingest", "inputs": _identities(sources)}) as draft:
        with (draft / "rejects.jsonl").open("w", encoding="utf-8", newline="\n") as rejects:
            ids = _first_pass(intake, sources, draft / _SPILL, rejects, config)
            intake.check_share(config.max_rejected_share)
            result = _second_pass(intake, ids, draft, rejects, config)
        (draft / _SPILL).unlink()
        metrics = _account(intake, result, config)
        write_text(draft / "metrics.json", pretty_json(metrics))
    note(rows=intake.rows, rows_by_source=dict(intake.rows_by_source))
    return metrics


def _demo() -> Source:
    """The built-in demo's pairs, as a source."""

    def rows() -> Iterator[RawRow]:
        for number, row in enumerate(demo_rows(DEMO_PAIRS, DEMO_SEED), start=1):
            yield RawRow(f"demo:{number}", row)

    return Source("demo", rows)


def _identities(sources: list[Source]) -> dict[str, str]:
    """Return what pins each source, under its name (numbered where two are called the same)."""
    found: dict[str, str] = {}
    for source in sources:
        name = source.name if source.name not in found else f"{source.name} ({len(found)})"
        found[name] = source.identity()
    return found


def _first_pass(
    intake: Intake, sources: list[Source], spill: Path, rejects: IO[str], config: IngestConfig
) -> list[str]:
    """Write every distinct pair to ``spill``, marked with its side; return their ids in order."""
    ids = []
    with PairWriter(spill, extra=[HELD_OUT]) as writer:
        for taken in progress(intake.read(sources), "reading", unit=" rows"):
            if isinstance(taken, Pair):
                held_out = is_held_out(taken.prompt_json, config.test_share, config.split_seed)
                writer.append(taken, **{HELD_OUT.name: held_out})
                ids.append(taken.pair_id)
            else:
                _write_rejection(rejects, taken)
    return ids


def _second_pass(intake: Intake, ids: list[str], draft: Path, rejects: IO[str], config: IngestConfig) -> Sorted:
    """Leave out contradictions and what is over the limit, and write both sides."""
    dropped = intake.contradicting if config.contradictions == "drop" else set()
    rest = [name for name in ids if name not in dropped]
    kept = None if config.limit is None else within_limit(rest, config.limit)
    result = sort_pairs(draft / _SPILL, draft, dropped, kept, lambda told: _write_rejection(rejects, told))
    check_sides(result.pairs["train"], result.pairs["test"], config.test_share)
    return result


def _write_rejection(stream: IO[str], rejection: Rejection) -> None:
    line = {"source": rejection.source, "reason": rejection.reason, "detail": rejection.detail[:200]}
    stream.write(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")


def _account(intake: Intake, result: Sorted, config: IngestConfig) -> dict[str, Any]:
    """Return the metrics, after checking that every row read went to exactly one place."""
    rejected = dict(intake.rejected)
    duplicates = rejected.pop("duplicate", 0)
    contradictions = len(intake.contradicting)
    left_out = {
        "rejected": sum(rejected.values()),
        "duplicate": duplicates,
        "contradiction": contradictions if config.contradictions == "drop" else 0,
        "filtered": intake.filtered,
        "over_limit": result.over_limit,
    }
    if intake.rows != result.pairs.total() + sum(left_out.values()):
        raise AssertionError(f"{intake.rows} rows read, {result.pairs.total()} pairs kept, left out: {left_out}")
    if result.prompts["train"] & result.prompts["test"]:
        raise AssertionError("a prompt stands on both sides of the split")
    _log.info("%d rows: %s pairs, left out: %s", intake.rows, dict(result.pairs), left_out)
    counted = result.metrics()
    for name in ("weight", "margin"):
        if name in counted:
            _log.info("the column %s says something of %d pairs: %s", name, counted[name]["pairs"], counted[name])
    return {
        "rows_read": intake.rows,
        **counted,
        "left_out": left_out,
        "rejected": dict(sorted(rejected.items())),
        "contradictory_pairs": contradictions,
    }


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("ingest", IngestConfig) as config:
        run(paths.PAIRS, config)


if __name__ == "__main__":
    main()
