"""Harmless edits by name, and which stages each one runs again."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath
from typing import Any

from tests.rules.source import STAGES


@dataclasses.dataclass(frozen=True)
class Edit:
    """A comment in one file.

    Attributes:
        file: The file, from the root of the checkout.
        direct: The stages that depend on it.
        then: The stages behind them, which run again where the outputs of those changed.
    """

    file: str
    direct: tuple[str, ...]
    then: tuple[str, ...] = ()


AFTER_ENCODE = STAGES[STAGES.index("reference") :]
WITH_ADAPTER = tuple(stage for stage in AFTER_ENCODE if stage != "qualify")  # which depends on none
AFTER_REFERENCE, AFTER_TRAIN = WITH_ADAPTER[1:], WITH_ADAPTER[2:]
AFTER_RESPOND, AFTER_WINRATE = WITH_ADAPTER[4:], WITH_ADAPTER[5:]
OBSERVERS = (
    "tasks/telemetry/log.py",
    "tasks/telemetry/receipts.py",
    "tasks/telemetry/provenance.py",
    "tasks/telemetry/summary.py",
    "tasks/launch/launcher.py",
    "tasks/launch/stage.py",
    "tasks/dpo/telemetry/prometheus.py",
    "tasks/dpo/telemetry/trackers.py",
    "tasks/dpo/telemetry/meter.py",
    "tasks/dpo/telemetry/heap.py",
)
ROWS = "tasks/pairs/ingestion/rows.py"  # which reads the prompt sets of `respond`, too
EDITS = (
    *(Edit(file, ()) for file in OBSERVERS),
    Edit("tasks/upkeep/compaction.py", ()),
    Edit(ROWS, ("ingest", "respond", "qualify"), ("encode", *AFTER_ENCODE[:2], "benchmarks", *AFTER_RESPOND)),
    Edit(
        *("tasks/pairs/encoding/template.py", ("encode", "respond", "qualify", "winrate")),
        (*AFTER_ENCODE[:2], "benchmarks", *AFTER_WINRATE),
    ),
    Edit("tasks/dpo/reference/reference_pass.py", ("reference",), AFTER_REFERENCE),
    Edit("tasks/dpo/capacity/preflight.py", ("reference", "train"), AFTER_TRAIN),
    Edit("tasks/dpo/training/trainer.py", ("train",), AFTER_TRAIN),
    Edit("tasks/dpo/generation/next_token.py", ("respond",), AFTER_RESPOND),
    Edit("tasks/judges/rules/rules.py", ("qualify", "winrate"), AFTER_WINRATE),
    Edit("tasks/page/webpage.py", ("report", "register")),
    Edit("tasks/registry/gate/gate.py", ("register",)),
    Edit("tasks/registry/release/release.py", ("register",)),
    # `adapters` writes the same bytes again whatever its code, so DVC runs no stage that reads them
    Edit("tasks/registry/log/registry_log.py", ("adapters", "register"), WITH_ADAPTER[:-1]),
    Edit("tasks/registry/stores/s3.py", ("adapters", "register"), WITH_ADAPTER[:-1]),
)


def direct(document: Any, file: str) -> tuple[str, ...]:
    """Return the stages of a dvc.yaml that list ``file`` or a folder above it as a dependency."""
    holders = {file, *(str(parent) for parent in PurePosixPath(file).parents)}
    return tuple(stage for stage, entry in document["stages"].items() if holders & set(entry["deps"]))


def downstream(document: Any, stages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the other stages of a dvc.yaml that read an output of ``stages``, or of a stage that does."""
    entries, reached = document["stages"], list(stages)
    for stage in reached:
        outs = {out for out in entries[stage]["outs"] if isinstance(out, str)}  # nobody reads the one that persists
        reached += [name for name, entry in entries.items() if outs & set(entry["deps"]) and name not in reached]
    return tuple(stage for stage in entries if stage in set(reached) - set(stages))
