"""Measure the judge on pairs of which the better answer is known, before it judges any answer.

reads:  data/pairs/, data/tokens/, or the file of `winrate.qualification.file`; for `own` data/base/
writes: results/qualification/ — metrics.json: agreement, Cohen's κ, first-position share, ties, canaries, and whether
        the judge qualifies; for `own` own_head.safetensors, which is fitted here
params: `winrate` in params.yaml, and `encode` for the prompts of a file; `runtime` for speed
run as: python -m tasks.qualify
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.files import atomic_folder, manifest_digest, pretty_json, write_text
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.judges.choice.build import build_judge, kind_of, own_choice, settled
from tasks.judges.choice.config import WinrateConfig
from tasks.judges.evidence.verdict_files import rounded
from tasks.judges.games.games import Comparison
from tasks.judges.models.model_choices import ModelPlace
from tasks.judges.models.own_fitting import write_head
from tasks.judges.models.own_reader import prompt_encoder
from tasks.judges.qualification.labelled_pairs import PromptEncoder, held_out_pairs, pairs_of_file
from tasks.judges.qualification.qualification import Papers, QualificationConfig, papers_of
from tasks.launch.stage import door
from tasks.pairs.encoding.encoder import EncodeConfig
from tasks.telemetry import log
from tasks.telemetry.receipts import note

_HELP = (
    "more labelled pairs; for `own` a larger base; another judge, such as `winrate.judge: {kind: openai, ...}` or "
    "`{kind: reward_model, ...}`; for `rules` the rules of this data"
)
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    pairs: Path = paths.PAIRS
    tokens: Path = paths.TOKENS
    out: Path = paths.QUALIFICATION
    base: Path = paths.BASE


def run(
    folders: Folders, config: WinrateConfig, encode: EncodeConfig | None = None, runtime: RuntimeConfig | None = None
) -> dict[str, Any]:
    """Measure the judge, write its papers under ``folders.out`` and return them; first fit it where it is fitted here.

    Args:
        folders: What the stage reads and writes.
        config: The section `winrate`.
        encode: How prompts of a file become tokens, for a judge that reads tokens.
        runtime: How this machine is used.

    Raises:
        ArtifactError: An input is missing or damaged.
        ConfigError: The judge does not suit the data.
        DataError: The file of labelled pairs is unusable.
    """
    inputs = {
        "pairs": manifest_digest(folders.pairs, "ingest"),
        "tokens": manifest_digest(folders.tokens, "encode"),
    }
    choice, kind = settled(config.judge, folders.pairs), kind_of(config, folders.pairs)
    with atomic_folder(folders.out, {"stage": "qualify", "inputs": inputs}) as draft:
        place = ModelPlace(folders.pairs, folders.tokens, folders.base, draft, runtime or RuntimeConfig())
        fitted = own_choice(choice)
        head = write_head(fitted, place) if fitted else None
        judge = build_judge(config, folders.pairs, place)
        encoder = prompt_encoder(place, encode or EncodeConfig()) if fitted and config.qualification.file else None
        pairs = _labelled(folders, config.qualification, encoder)
        papers = papers_of(judge, kind, pairs, config.qualification.min_agreement, head)
        note(judge_usage=dataclasses.asdict(judge.usage))
        metrics: dict[str, Any] = rounded(papers.as_json())
        write_text(draft / "metrics.json", pretty_json(metrics))
    _report(papers)
    return metrics


def _labelled(folders: Folders, config: QualificationConfig, encoder: PromptEncoder | None) -> list[Comparison]:
    if config.file is not None:
        return pairs_of_file(config.file, config.pairs, encoder)
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
    if papers.faults():
        _log.warning("what would help: %s", _HELP)
    else:
        _log.info("the judge `%s` qualifies", papers.kind)


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("qualify", lambda params: load_section(params, "winrate", WinrateConfig)) as config:
        encode = load_section(paths.PARAMS, "encode", EncodeConfig)
        run(Folders(), config, encode, load_section(paths.PARAMS, "runtime", RuntimeConfig))


if __name__ == "__main__":
    main()
