"""Read preference data of any common form into validated pairs, split by prompt into train and test.

reads:  `ingest.sources` (files, globs, pinned hub data sets, or the built-in demo)
writes: data/pairs/ (train.parquet, test.parquet, rejects.jsonl, metrics.json, and unpaired.jsonl for lone thumbs)
params: `ingest` in params.yaml
run as: python -m tasks.ingest
        python -m tasks.ingest --try FILE    shows how a file is read, and writes nothing
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from tasks.core import paths
from tasks.core.files import atomic_folder, kept_on_error, pretty_json, write_text
from tasks.core.params import load_section
from tasks.core.section import Section, at_least, between, filled
from tasks.demo.preferences.preferences import demo_rows
from tasks.launch.stage import door, look, option
from tasks.pairs.forms.choose import AUTO, FormSettings
from tasks.pairs.forms.ranked import Pairing
from tasks.pairs.forms.votes import VoteValues
from tasks.pairs.hygiene.expectations import Expectations, check_expectations
from tasks.pairs.hygiene.personal_data import PersonalData
from tasks.pairs.ingestion.intake import Intake
from tasks.pairs.ingestion.reading import Reading, Scalar
from tasks.pairs.ingestion.sources import Source, find_sources, rows_source
from tasks.pairs.ingestion.split import check_sides, is_held_out
from tasks.pairs.ingestion.try_file import try_source
from tasks.pairs.ingestion.two_passes import account, first_pass, sort_pairs, write_rejection
from tasks.pairs.ingestion.verdicts import DUPLICATES, SIDES, Verdicts
from tasks.pairs.raw.raw_row import Block
from tasks.pairs.record.pair import Columns, Pair
from tasks.telemetry.receipts import note

DEMO_PAIRS = 1400  # that the source `demo` makes
DEMO_SEED = 0
_SPILL = "spill.parquet"


@dataclasses.dataclass(frozen=True)
class IngestConfig(Section, path="ingest"):
    """The `ingest` section of params.yaml; its keys are explained there."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "demo_pairs": f"delete it: the demo makes {DEMO_PAIRS} pairs; `ingest.limit` keeps fewer",
        "demo_seed": "delete it: the demo's pairs are always the same",
    }

    sources: Annotated[tuple[str, ...], filled("name at least one source, such as demo")]
    columns: Columns = dataclasses.field(default_factory=Columns)
    ignore: tuple[str, ...] = ()
    where: dict[str, Scalar] = dataclasses.field(default_factory=dict)
    limit: Annotated[int, at_least(2, "or null")] | None = None
    test_share: Annotated[float, between(0, 1, "()")] = 0.1
    split_seed: int = 0
    contradictions: Literal["drop", "keep"] = "drop"
    max_rejected_share: Annotated[float, between(0, 1)] = 0.1
    form: str = AUTO
    votes: VoteValues = dataclasses.field(default_factory=VoteValues)
    pairing: Pairing = "best_worst"
    min_gap: Annotated[float, at_least(0)] = 0.0
    expect: Expectations = dataclasses.field(default_factory=Expectations)
    personal_data: Literal["off", "report", "mask", "drop"] = "off"

    def __post_init__(self) -> None:
        """Check each value, and the name of the form and the meanings of votes.

        Raises:
            ConfigError: Naming the key, and what to write instead.
        """
        super().__post_init__()
        self.votes.meanings()
        _ = self.reading

    @property
    def reading(self) -> Reading:
        """How the rows of the sources are read."""
        forms = FormSettings(self.form, self.votes, self.pairing, self.min_gap)
        return Reading(self.columns, self.where, frozenset(self.ignore), forms)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage writes."""

    pairs: Path = paths.PAIRS


def run(folders: Folders, config: IngestConfig, kept: Path | None = None) -> dict[str, Any]:
    """Read all sources into ``folders.pairs`` and return the metrics.

    Where the data are refused, the list of rejected rows stays in the folder ``kept``.

    Raises:
        ConfigError: A source is of a kind that is not read here, or is not pinned to a commit.
        DataError: A source cannot be read, too many rows are unusable, a side of the split is empty, or the data miss
            an expectation.
    """
    sources = find_sources(config.sources, config.reading, {"demo": Source("demo", _demo_rows)})
    intake = Intake(None if config.personal_data == "off" else PersonalData(config.personal_data))

    def goes_to_test(pair: Pair) -> bool:
        return is_held_out(pair.prompt_json, config.test_share, config.split_seed)

    with atomic_folder(folders.pairs, {"stage": "ingest", "inputs": _identities(sources)}) as draft:
        spill = draft / _SPILL
        listed, kept_rows = draft / "rejects.jsonl", draft / "unpaired.jsonl"
        with (
            kept_on_error(listed, kept),
            listed.open("w", encoding="utf-8", newline="\n") as rejects,
            kept_rows.open("w", encoding="utf-8", newline="\n") as unpaired,
        ):
            reject = functools.partial(write_rejection, rejects, unpaired)
            first_pass(intake, sources, spill, goes_to_test, reject)
            with Verdicts(spill, config.contradictions == "drop", config.limit) as verdicts:
                intake.rejected.update({name: verdicts.counts[name] for name in DUPLICATES if verdicts.counts[name]})
                for rejection in verdicts.rejections():
                    reject(rejection)
                intake.check_share(config.max_rejected_share)
                sort_pairs(spill, draft, verdicts)
                train, test = (verdicts.counts[side] for side in SIDES)
                check_sides(train, test, config.test_share, verdicts.counts["contradiction"])
                metrics = account(intake, verdicts, verdicts.statistics(draft))
                metrics |= check_expectations(config.expect, metrics, draft)
        spill.unlink()
        if not kept_rows.stat().st_size:
            kept_rows.unlink()
        write_text(draft / "metrics.json", pretty_json(metrics))
    note(rows=intake.rows, rows_by_source=dict(intake.rows_by_source))
    return metrics


def _demo_rows() -> Iterator[Block]:
    return rows_source(demo_rows(DEMO_PAIRS, DEMO_SEED), "demo").blocks()


def _identities(sources: list[Source]) -> dict[str, str]:
    """Return what pins each source, under its name (numbered where two are called the same)."""
    identities: dict[str, str] = {}
    for source in sources:
        name = source.name if source.name not in identities else f"{source.name} ({len(identities)})"
        identities[name] = source.identity()
    return identities


def main() -> None:
    """Bind the standard paths and params.yaml."""
    if source := option("ingest", "--try"):
        with look("ingest"):
            config = load_section(paths.PARAMS, "ingest", IngestConfig)
            for line in try_source(source, config.reading, config.max_rejected_share):
                print(line)
        return
    with door("ingest", IngestConfig) as config:
        run(Folders(), config, kept=paths.RUNS / "ingest")


if __name__ == "__main__":
    main()
