"""Read preference data of any common form into validated pairs, split by prompt into train and test.

reads:  `ingest.sources` (files, globs, pinned hub data sets, or the built-in demo)
writes: data/pairs/ (train.parquet/, test.parquet/, rejects.jsonl, metrics.json, and unpaired.jsonl for lone thumbs)
params: `ingest` in params.yaml
run as: python -m tasks.ingest
        python -m tasks.ingest --try FILE    shows how a file is read, and writes nothing
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tasks.core import paths
from tasks.core.files import atomic_folder, pretty_json, write_text
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.core.section import Section, at_least, between, filled
from tasks.demo.preferences.preferences import demo_rows
from tasks.launch.stage import door, look, option
from tasks.pairs.forms.choose import AUTO
from tasks.pairs.forms.ranked import Pairing
from tasks.pairs.forms.votes import VoteValues
from tasks.pairs.hygiene.checks import Checks
from tasks.pairs.hygiene.expectations import Expectations
from tasks.pairs.ingestion.filters import Wanted
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.keep_out import KeptOut, evaluation_sets
from tasks.pairs.ingestion.parts import PartFolder
from tasks.pairs.ingestion.placement import Placement
from tasks.pairs.ingestion.reading import Reading, SourceEntry, read_entries, read_reading
from tasks.pairs.ingestion.selection import DUPLICATES, Selection
from tasks.pairs.ingestion.shards import write_shards
from tasks.pairs.ingestion.sources import Source, find_entries, hashing, rows_source
from tasks.pairs.ingestion.try_file import try_source
from tasks.pairs.ingestion.two_passes import account, first_pass, listing
from tasks.pairs.ingestion.verdicts import Verdicts
from tasks.pairs.ingestion.wording_overlap import leaking_prompt_share
from tasks.pairs.raw.raw_row import Block
from tasks.pairs.record.pair import Columns
from tasks.telemetry.receipts import note

DEMO_PAIRS, DEMO_SEED = 1400, 0  # of the source `demo`


@dataclasses.dataclass(frozen=True)
class IngestConfig(Section, path="ingest"):
    """The `ingest` section of params.yaml; its keys are explained there."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "demo_pairs": f"delete it: the demo makes {DEMO_PAIRS} pairs; `ingest.limit` keeps fewer",
        "demo_seed": "delete it: the demo's pairs are always the same",
    }

    sources: Annotated[tuple[str | SourceEntry, ...], filled("name at least one source, such as demo")]
    columns: Columns = dataclasses.field(default_factory=Columns)
    ignore: tuple[str, ...] = ()
    where: dict[str, Wanted] = dataclasses.field(default_factory=dict)
    limit: Annotated[int, at_least(2, "or null")] | None = None
    test_share: Annotated[float, between(0, 1, "[)")] = 0.1
    stratify: bool = False
    split_seed: int = 0
    near_duplicates: Literal["words", "minhash"] = "words"
    keep_out: tuple[str | SourceEntry, ...] = ()
    contradictions: Literal["drop", "keep"] = "drop"
    max_rejected_share: Annotated[float, between(0, 1)] = 0.1
    form: str = AUTO
    votes: VoteValues = dataclasses.field(default_factory=VoteValues)
    pairing: Pairing = "best_worst"
    min_gap: Annotated[float, at_least(0)] = 0.0
    expect: Expectations = dataclasses.field(default_factory=Expectations)
    personal_data: Literal["off", "report", "mask", "drop"] = "off"
    languages: bool = False

    def __post_init__(self) -> None:
        """Check each value, and what the section and each source say of how rows are read.

        Raises:
            ConfigError: Naming the key, and what to write instead.
        """
        super().__post_init__()
        _ = self.reading
        splits = [entry.split for entry, _ in read_entries(self)]
        advice = "write a number above 0, or name a source of test pairs: {path: FILE, split: test}"
        self.require(self.test_share > 0 or "test" in splits, "test_share", advice)

    @property
    def reading(self) -> Reading:
        """How the rows of a source are read that says nothing of its own."""
        return read_reading(self, self.PATH)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage writes."""

    pairs: Path = paths.PAIRS


def run(
    folders: Folders, config: IngestConfig, kept: Path | None = None, parts: Path | None = None, processes: int = 1
) -> dict[str, Any]:
    """Read all sources into ``folders.pairs`` and return the metrics.

    Where the data are refused, the list of rejected rows stays in the folder ``kept``. What was read of blocks of rows
    stays in the folder ``parts``, so that the next run reads new rows alone; several ``processes`` read blocks.

    Raises:
        ConfigError: A source is of a kind that is not read here, or is not pinned to a commit.
        DataError: A source cannot be read, too many rows are unusable, a side of the split is empty, or the data miss
            an expectation.
    """
    sources = find_entries(read_entries(config), {"demo": Source("demo", _demo_rows)})
    checks = Checks(config.expect, config.personal_data, config.languages)
    intake = Intake(checks.personal_data)
    finds_near = config.near_duplicates == "minhash"
    placement = Placement(config.split_seed, KeptOut(config.keep_out, config.max_rejected_share), finds_near)
    kept_out = {f"keep_out: {source.name}": source.identity() for source in evaluation_sets(config.keep_out)}
    settings = {"personal_data": config.personal_data}

    about: dict[str, Any] = {"stage": "ingest"}
    with atomic_folder(folders.pairs, about) as draft, listing(draft, kept) as reject, hashing(sources) as identities:
        spill = draft / "keys.parquet"
        with PartFolder(parts or draft / "parts", placement, settings, processes) as folder:
            read = first_pass(intake, sources, folder, spill, reject)
            with Verdicts(spill, Selection.of(config)) as verdicts:
                intake.rejected.update({name: verdicts.counts[name] for name in DUPLICATES if verdicts.counts[name]})
                for rejection in verdicts.rejections():
                    reject(rejection)
                intake.check_share(config.max_rejected_share)
                write_shards(read, draft, verdicts, parts / "shards" if parts else None)
                verdicts.check_sides(config.test_share, intake.rejected)
                metrics = account(intake, verdicts, verdicts.statistics(draft))
                metrics |= checks.measure(metrics, draft, intake.total.personal_data, leaking_prompt_share)
        spill.unlink()
        shutil.rmtree(draft / "parts", ignore_errors=True)
        about["inputs"] = identities() | kept_out
        write_text(draft / "metrics.json", pretty_json(metrics))
    note(rows=intake.rows, rows_by_source=dict(intake.rows_by_source))
    return metrics


def _demo_rows() -> Iterator[Block]:
    return rows_source(demo_rows(DEMO_PAIRS, DEMO_SEED), "demo").blocks()


def main() -> None:
    """Bind the standard paths and params.yaml."""
    if source := option("ingest", "--try"):
        with look("ingest"):
            config = load_section(paths.PARAMS, "ingest", IngestConfig)
            readings = [reading for entry, reading in read_entries(config) if entry.path == source] or [config.reading]
            for reading in readings:
                for line in try_source(source, reading, config.max_rejected_share):
                    print(line)
        return
    with door("ingest", IngestConfig) as config:
        location = load_section(paths.PARAMS, "runtime", RuntimeConfig).row_store
        is_folder = "://" not in location  # parts stay on this machine
        parts = (Path(location) if is_folder else paths.RUNS / "rows") / "ingest" if location else None
        run(Folders(), config, kept=paths.RUNS / "ingest", parts=parts, processes=len(os.sched_getaffinity(0)))


if __name__ == "__main__":
    main()
