"""Nightly: with any judge that qualifies, the gate hardly ever promotes the answers that people rejected."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import base, encode, ingest, qualify
from tasks.base import BaseConfig
from tasks.core.params import build, load_params
from tasks.core.runtime import RuntimeConfig
from tasks.estimation.bounds import ALPHA, lower_bound
from tasks.estimation.power import spent_alpha
from tasks.ingest import IngestConfig
from tasks.judges.choice.build import build_judge
from tasks.judges.choice.config import WinrateConfig
from tasks.judges.games.games import pair_up
from tasks.judges.models.model_choices import ModelPlace
from tasks.judges.qualification.labelled_pairs import held_out_pairs
from tasks.pairs.encoding.encoder import EncodeConfig
from tests.conftest import ROOT

PROMPTS, DRAWS = 200, 300
SETS = ("hh-rlhf-harmless-base-test", "pandalm-testset-v1", "qa-feedback-dev")
ENCODE = EncodeConfig(
    text_as="chat", chat_template="plain", max_prompt_tokens=256, max_dropped_share=1
)  # the base has 512 positions
FORM = {"length": 1, "repetition": 1, "ending": 1}  # rules that know no phrase of the demo
JUDGES: tuple[dict[str, Any], ...] = ({"kind": "rules"}, {"kind": "length"}, {"kind": "random"}, {"kind": "own"})

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


@dataclasses.dataclass(frozen=True)
class Swap:
    """What a judge says of a set of human preferences.

    Attributes:
        is_qualified: Whether its papers let it judge.
        chosen: Share of draws in which the gate would promote the answers that people chose.
        rejected: The same of those that they rejected.
    """

    is_qualified: bool
    chosen: float
    rejected: float


@pytest.fixture(scope="module", params=SETS)
def place(request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelPlace:
    """A published set, of which a fifth of the prompts is held out, with the tokens of a small real base."""
    root, name = tmp_path_factory.mktemp("swap"), request.param
    ingest.run(
        ingest.Folders(root / "pairs"),
        IngestConfig((str(shared / "preferences" / name / "pairs.jsonl.gz"),), test_share=0.2, max_rejected_share=0.2),
    )
    base.run(base.Folders(root / "base"), BaseConfig(source=str(shared / "models/stories260K")))
    encode.run(encode.Folders(root / "pairs", root / "base", root / "tokens"), ENCODE)
    runtime = RuntimeConfig(row_store=str(root / "rows"), device="cpu")
    (root / "qualification").mkdir()
    return ModelPlace(root / "pairs", root / "tokens", root / "base", root / "qualification", runtime)


def swapped(place: ModelPlace, judge: dict[str, Any]) -> Swap:
    """Let the judge qualify, then judge labelled pairs as if their answers were those of an adapter and its base."""
    values = load_params(ROOT / "params.yaml")["winrate"]
    rules = {**values["rules"], "weights": FORM}
    config = build(WinrateConfig, {**values, "judge": judge, "rules": rules}, "winrate")
    folders = qualify.Folders(place.pairs, place.tokens, place.qualification, place.base)
    papers = qualify.run(folders, config, ENCODE, place.runtime)

    runner = build_judge(config, place.pairs, place)
    games = list(pair_up(runner.verdicts(held_out_pairs(place.pairs, place.tokens, 10_000))))
    credits = np.nan_to_num(np.array([game.credit for game in games]), nan=0.5)
    chosen, rejected = (promoted(side) for side in (credits, 1 - credits))
    return Swap(papers["qualified"], chosen, rejected)


def promoted(credits: np.ndarray[Any, Any]) -> float:
    """Return the share of draws of 200 prompts in which the bound of the first look clears one half."""
    draw, level = np.random.default_rng(0), spent_alpha(ALPHA, 1)
    drawn = [draw.choice(credits, size=min(PROMPTS, len(credits)), replace=True) for _ in range(DRAWS)]
    return float(np.mean([lower_bound(list(scores), level) > 0.5 for scores in drawn]))


@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge["kind"])
def test_a_judge_that_qualifies_promotes_what_people_rejected_in_few_draws(
    place: ModelPlace, judge: dict[str, Any]
) -> None:
    swap = swapped(place, judge)
    print(f"{judge['kind']}: qualified {swap.is_qualified}, chosen {swap.chosen:.2f}, rejected {swap.rejected:.2f}")
    assert not swap.is_qualified or swap.rejected <= 0.05
