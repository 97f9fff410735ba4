"""Measure the judge on pairs of which the better answer is known, before it judges any answer.

reads:  data/pairs/test.parquet, data/tokens/prompts.jsonl, or the file of `winrate.qualification.file`
writes: results/qualification/ — metrics.json: agreement, Cohen's κ, first-position share, ties, canaries, and whether
        the judge qualifies
params: `winrate` in params.yaml
run as: python -m tasks.qualify
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.files import atomic_folder, manifest_digest, pretty_json, write_text
from tasks.core.params import load_section
from tasks.judges.choice.build import build_judge, kind_of
from tasks.judges.choice.config import WinrateConfig
from tasks.judges.evidence.verdict_files import rounded
from tasks.judges.games.games import Comparison
from tasks.judges.qualification.labelled_pairs import held_out_pairs, pairs_of_file
from tasks.judges.qualification.qualification import Papers, QualificationConfig, papers_of
from tasks.launch.stage import door
from tasks.telemetry import log
from tasks.telemetry.receipts import note

_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    pairs: Path = paths.PAIRS
    tokens: Path = paths.TOKENS
    out: Path = paths.QUALIFICATION


def run(folders: Folders, config: WinrateConfig) -> dict[str, Any]:
    """Measure the judge, write its papers under ``folders.out`` and return them.

    Raises:
        ArtifactError: An input is missing or damaged.
        ConfigError: The judge does not suit the data.
        DataError: The file of labelled pairs is unusable.
    """
    inputs = {
        "pairs": manifest_digest(folders.pairs, "ingest"),
        "tokens": manifest_digest(folders.tokens, "encode"),
    }
    kind, judge = kind_of(config, folders.pairs), build_judge(config, folders.pairs)
    papers = papers_of(judge, kind, _labelled(folders, config.qualification), config.qualification.min_agreement)
    note(judge_usage=dataclasses.asdict(judge.usage))

    metrics: dict[str, Any] = rounded(papers.as_json())
    with atomic_folder(folders.out, {"stage": "qualify", "inputs": inputs}) as draft:
        write_text(draft / "metrics.json", pretty_json(metrics))
    _report(papers)
    return metrics


def _labelled(folders: Folders, config: QualificationConfig) -> list[Comparison]:
    if config.file is not None:
        return pairs_of_file(config.file, config.pairs)
    return held_out_pairs(folders.pairs, folders.tokens, config.pairs)


def _report(papers: Papers) -> None:
    agreement, by_length = papers.agreement, papers.length_agreement.agreement
    if share := agreement.agreement:
        _log.info(
            "the judge `%s` agrees with the labels on %.1f %% of %d decided pairs (%.1f to %.1f); length on %s",
            papers.kind,
            *(100 * share.value, agreement.decided, 100 * share.low, 100 * share.high),
            f"{100 * by_length.value:.1f} %" if by_length else "none",
        )
    for fault in papers.faults():
        _log.warning("the judge `%s` does not qualify: %s", papers.kind, fault)
    if not papers.faults():
        _log.info("the judge `%s` qualifies", papers.kind)


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("qualify", lambda params: load_section(params, "winrate", WinrateConfig)) as config:
        run(Folders(), config)


if __name__ == "__main__":
    main()
