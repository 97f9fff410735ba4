"""Write the report page and the model card: the data, the training, the win rate and its uncertainty.

reads:  data/base/, data/pairs/, data/tokens/, models/adapter/, results/train/, data/responses/, results/winrate/
writes: results/report/ — report.html, one self-contained page; README.md, the model card of the version;
        curves/*.svg, the curves of training for other pages
params: `report` in params.yaml; the sections of the other stages are shown as lineage
run as: python -m tasks.report
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.files import atomic_folder, write_text
from tasks.core.nested import flatten
from tasks.core.params import load_params
from tasks.core.section import Section, between, filled
from tasks.launch.stage import door
from tasks.page.card import model_card
from tasks.page.curve_files import write_curves
from tasks.page.facts import Facts
from tasks.page.readers.read_answers import read_answers
from tasks.page.readers.read_data import read_data
from tasks.page.readers.read_evidence import read_evidence
from tasks.page.readers.read_lineage import read_lineage
from tasks.page.readers.read_training import read_training
from tasks.page.webpage import render
from tasks.page.words import verdict
from tasks.telemetry import log

EXCERPT_CHARS = 1200  # of each question and answer that are shown; what is cut is counted
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class ReportConfig(Section, path="report"):
    """What the page is called, and how much it shows.

    Attributes:
        title: Title of page and card.
        license: The adapter's license on the card, as the Hub spells it (`apache-2.0`); None leaves it out.
        examples: Judged prompts that stand opened on the page, drawn blindly; the others open with a click.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "lost_examples": "delete it: the page shows all judged prompts, and can show those alone that were lost",
        "excerpt_chars": f"delete it: the page shows {EXCERPT_CHARS} characters of each text",
    }

    title: Annotated[str, filled("give the page a name")]
    license: str | None
    examples: Annotated[int, between(0, 200)]


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    base: Path = paths.BASE
    pairs: Path = paths.PAIRS
    tokens: Path = paths.TOKENS
    adapter: Path = paths.ADAPTER
    train_results: Path = paths.TRAIN_RESULTS
    responses: Path = paths.RESPONSES
    winrate: Path = paths.WINRATE
    out: Path = paths.REPORT


def run(folders: Folders, params: Mapping[str, Any], config: ReportConfig) -> Facts:
    """Write page and card from the stages' folders; return what they state.

    Args:
        folders: Where to read and write.
        params: params.yaml's sections, shown as lineage.
        config: Title and amounts.

    Raises:
        ArtifactError: An input is missing, damaged, or lacks a key; the message names file and key.
    """
    facts = collect(folders, params)
    inputs = {"base": facts.base.digest, **dict(facts.lineage.digests)}
    with atomic_folder(folders.out, {"stage": "report", "inputs": inputs}) as draft:
        write_text(draft / "report.html", render(facts, config.title, EXCERPT_CHARS, config.examples))
        write_text(draft / "README.md", model_card(facts, config.title, config.license))
        write_curves(draft / "curves", facts.training)
    (_log.warning if facts.evidence.failed_guards else _log.info)("%s", verdict(facts.evidence))
    _log.info("the page is %s", folders.out / "report.html")
    return facts


def collect(folders: Folders, params: Mapping[str, Any]) -> Facts:
    """Read everything that the page states."""
    made = {
        "pairs": ("ingest", folders.pairs),
        "tokens": ("encode", folders.tokens),
        "adapter": ("train", folders.adapter),
        "curves": ("train", folders.train_results),
        "responses": ("respond", folders.responses),
        "winrate": ("winrate", folders.winrate),
    }
    base = BaseModel.open(folders.base, check_files=False)
    return Facts(
        base=base,
        data=read_data(folders.pairs, folders.tokens),
        training=read_training(folders.train_results, flatten(params).get("train.objective.beta")),
        evidence=read_evidence(folders.winrate, (params.get("winrate") or {}).get("judge")),
        answers=read_answers(folders.tokens, folders.responses, folders.winrate),
        lineage=read_lineage(base, made, params),
    )


def main() -> None:
    """Bind the standard paths and params.yaml."""
    with door("report", ReportConfig) as config:
        run(Folders(), load_params(paths.PARAMS), config)


if __name__ == "__main__":
    main()
