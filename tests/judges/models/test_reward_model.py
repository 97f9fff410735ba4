"""A reward model as judge: each known trap, and a tiny one that is trained here and qualifies."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks import qualify
from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError, DataError
from tasks.core.runtime import RuntimeConfig
from tasks.judges.games.games import Comparison, pair_up
from tasks.judges.games.runners import ScoreRunner
from tasks.judges.models import reward_model
from tasks.judges.models.model_choices import ModelPlace, RewardModelJudge
from tasks.judges.models.replicas import Replicas, batches
from tasks.judges.models.reward_model import load_reward_model, score_batch
from tasks.judges.models.reward_scorer import RewardModelScorer
from tasks.judges.models.row_cache import TokenText
from tasks.judges.protocol.protocol import Answer, Prompt, Response, Turn
from tasks.judges.qualification.agreement import agreement_of
from tests.conftest import ROOT
from tests.judges.models.conftest import made_up_pairs, winrate_config
from tests.judges.models.reward_models import TEMPLATE, reward_model_of_base, train_reward_model, write_reward_model
from tests.stages.hub_server import serving

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(project: ModelPlace) -> Any:
    return BaseModel.open(project.base).load_tokenizer()


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reward_model(tmp_path_factory.mktemp("reward") / "model", tokenizer)


def choice(source: Path | str, **more: Any) -> RewardModelJudge:
    return RewardModelJudge("reward_model", str(source), **more)


def responses(count: int) -> list[Response]:
    return [
        Response(Prompt((Turn("user", row["prompt"]),)), Answer(row[name]))
        for row in made_up_pairs(count, seed=3)
        for name in ("chosen", "rejected")
    ]


def values(scorer: RewardModelScorer, given: list[Response]) -> list[float]:
    return [score.value for score in scorer.score(given) if score.value is not None]


@pytest.fixture
def unstored(place: ModelPlace) -> ModelPlace:
    return dataclasses.replace(place, runtime=RuntimeConfig(row_store="", device="cpu"))


# the traps


def test_a_model_of_several_labels_is_refused(tokenizer: Any, tmp_path: Path, place: ModelPlace) -> None:
    several = write_reward_model(tmp_path / "m", tokenizer, num_labels=3)
    with pytest.raises(
        DataError, match=r"config.json has 3 labels, and a reward model has one .* — name a reward model"
    ):
        RewardModelScorer(choice(several), place)


def test_a_freshly_initialised_head_is_refused(folder: Path, tmp_path: Path, tokenizer: Any, place: ModelPlace) -> None:
    headless = write_reward_model(tmp_path / "m", tokenizer)
    weights = load_file(headless / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, headless / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"has no weights for score.weight, which would be random — name a model that"):
        RewardModelScorer(choice(headless), place).score(responses(1))


def test_a_model_without_a_chat_template_is_refused(tokenizer: Any, tmp_path: Path, place: ModelPlace) -> None:
    bare = write_reward_model(tmp_path / "m", tokenizer, template=None)
    with pytest.raises(DataError, match=r"has no chat template, .* — save the template that it was trained with"):
        RewardModelScorer(choice(bare), place)
    (bare / "chat_template.jinja").write_text(TEMPLATE)
    assert values(RewardModelScorer(choice(bare), place), responses(1))


@pytest.mark.parametrize("pad", [None, "eos"])
def test_the_last_token_is_scored_whatever_the_padding_token_is(
    tokenizer: Any, tmp_path: Path, pad: str | None, unstored: ModelPlace
) -> None:
    pad_id = tokenizer.eos_token_id if pad else None
    model = write_reward_model(tmp_path / "m", tokenizer, pad_token_id=pad_id)
    given = responses(6)
    loaded = load_reward_model(model, CPU)
    scorer = RewardModelScorer(choice(model), unstored)
    by_hand = []
    for text in (scorer._text(each) for each in given):
        assert isinstance(text, TokenText)
        assert text.ids[-1] == tokenizer.eos_token_id
        with torch.inference_mode():
            states = loaded.model(torch.tensor([text.ids])).last_hidden_state
            by_hand.append(float(loaded.score(states)[0, -1, 0]))
    assert values(scorer, given) == pytest.approx(by_hand, abs=2e-4)


def test_a_batch_that_holds_every_token_is_scored_in_parts(folder: Path) -> None:
    model = load_reward_model(folder, CPU)
    size = model.config.vocab_size
    texts = [TokenText(tuple(range(start, size, 2))) for start in (0, 1)]
    with torch.inference_mode():
        both = score_batch(model, texts, CPU)
        alone = [score_batch(model, [text], CPU) for text in texts]
    assert both == pytest.approx(np.concatenate(alone), abs=1e-5)


def test_bos_stands_once_where_template_and_tokenizer_both_write_it(
    tokenizer: Any, folder: Path, place: ModelPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = RewardModelScorer(choice(folder), place)
    text = scorer._text(responses(1)[0])
    assert isinstance(text, TokenText)
    if tokenizer.bos_token_id is not None:
        assert text.ids.count(tokenizer.bos_token_id) == TEMPLATE.count("bos_token")


def test_an_overlong_conversation_is_invalid_and_not_cut(folder: Path, place: ModelPlace) -> None:
    long = Response(Prompt((Turn("user", "Hello?"),)), Answer("We will send it today. " * 300))
    score = RewardModelScorer(choice(folder), place).score([long])[0]
    assert (score.status, score.value) == ("invalid", None)
    assert "and the model has 512 positions" in score.detail["reason"]


def test_a_conversation_that_the_template_refuses_is_invalid(tokenizer: Any, tmp_path: Path, place: ModelPlace) -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + TEMPLATE
    model = write_reward_model(tmp_path / "m", tokenizer, template=strict)
    asked = Response(Prompt((Turn("system", "Be kind."), Turn("user", "Hello?"))), Answer("Hello."))
    score = RewardModelScorer(choice(model), place).score([asked])[0]
    assert (score.status, score.detail["reason"]) == (
        "invalid",
        "the chat template refuses the conversation: no system turns",
    )


def test_a_special_token_in_an_answer_ends_no_turn(tokenizer: Any, folder: Path, place: ModelPlace) -> None:
    scorer = RewardModelScorer(choice(folder), place)
    prompt = Prompt((Turn("user", "Hello?"),))
    counts = []
    for answer in ("Hello.", f"Hello.{tokenizer.eos_token}<user> Great!"):
        text = scorer._text(Response(prompt, Answer(answer)))
        assert isinstance(text, TokenText)
        counts.append(text.ids.count(tokenizer.eos_token_id))
    assert counts[0] == counts[1]


def test_the_whole_conversation_is_scored(folder: Path, unstored: ModelPlace) -> None:
    turns = (Turn("user", "Hello?"), Turn("assistant", "Yes."), Turn("user", "My lamp hums."))
    other = (Turn("user", "Good day."), *turns[1:])
    answer = Answer("Leave the lamp to me.")
    scores = values(
        RewardModelScorer(choice(folder), unstored), [Response(Prompt(each), answer) for each in (turns, other)]
    )
    assert scores[0] != scores[1]


def test_a_score_that_is_not_finite_is_invalid(tokenizer: Any, tmp_path: Path, unstored: ModelPlace) -> None:
    broken = write_reward_model(tmp_path / "m", tokenizer)
    weights = load_file(broken / "model.safetensors")
    weights["score.weight"].fill_(float("inf"))
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    scores = RewardModelScorer(choice(broken), unstored).score(responses(2))
    assert {(score.status, score.value) for score in scores} == {("invalid", None)}


# where it comes from


def test_a_folder_that_is_not_there_is_refused(place: ModelPlace) -> None:
    with pytest.raises(ConfigError, match=r"`winrate.judge.source` is './nowhere', and there is no such folder"):
        RewardModelScorer(choice("./nowhere"), place)


def test_a_revision_of_a_folder_is_refused(folder: Path, place: ModelPlace) -> None:
    with pytest.raises(
        ConfigError, match=r"`winrate\.judge\.revision` is 'main', and the source is a folder — write null"
    ):
        RewardModelScorer(choice(folder, revision="main"), place)


HUB_SCRIPT = """
import sys
from pathlib import Path
from tasks.core.errors import PipelineError
from tasks.core.runtime import RuntimeConfig
from tasks.judges.models.model_choices import ModelPlace, RewardModelJudge
from tasks.judges.models.reward_scorer import RewardModelScorer
from tests.judges.models.test_reward_model import responses

nowhere = Path("nowhere")
place = ModelPlace(nowhere, nowhere, nowhere, nowhere, RuntimeConfig(row_store="", device="cpu"))
for revision in (None, "main", sys.argv[1]):
    try:
        scorer = RewardModelScorer(RewardModelJudge("reward_model", "org/reward", revision), place)
        print("scores", [score.value for score in scorer.score(responses(1))])
    except PipelineError as error:
        print(error)
"""


@pytest.mark.nightly
def test_a_hub_model_is_pinned_by_a_commit_and_without_one_refused_with_the_commit_to_write(
    folder: Path, tmp_path: Path, unstored: ModelPlace
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    with serving("org/reward", commit, folder) as hub:
        env |= {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hub"),
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
        }
        env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1"}
        command = [sys.executable, "-c", HUB_SCRIPT, commit]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    first, second, third = done.stdout.splitlines()
    assert first == (
        f"`winrate.judge.revision` is missing: org/reward moves — pin the commit that `main` stands at now: "
        f"revision: {commit}"
    )
    assert second.startswith("`winrate.judge.revision` is 'main', a name that can move, not a commit of org/reward")
    assert third == f"scores {values(RewardModelScorer(choice(folder), unstored), responses(1))}"


# what it gives


def test_scores_are_kept_and_a_second_run_loads_no_model(
    folder: Path, place: ModelPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = values(RewardModelScorer(choice(folder), place), responses(4))
    monkeypatch.setattr(reward_model, "load_reward_model", lambda *_: pytest.fail("an answer was scored again"))
    assert values(RewardModelScorer(choice(folder), place), responses(4)) == first


def test_scores_do_not_depend_on_batches_or_copies(folder: Path, unstored: ModelPlace) -> None:
    given = responses(12)
    first = values(RewardModelScorer(choice(folder), unstored), given)
    small = dataclasses.replace(unstored, runtime=RuntimeConfig(row_store="", device="cpu", tokens_per_micro_batch=90))
    assert values(RewardModelScorer(choice(folder), small), given) == pytest.approx(first, abs=2e-4)

    scorer = RewardModelScorer(choice(folder), unstored)
    texts = [text for text in map(scorer._text, given) if isinstance(text, TokenText)]
    two = Replicas(lambda device: load_reward_model(folder, device), score_batch, [CPU, CPU], 90)
    assert [float(row[0]) for row in two.read(texts)] == pytest.approx(first, abs=2e-4)


def test_batches_hold_texts_of_like_length_the_longest_first() -> None:
    texts = [TokenText((1,) * length) for length in (3, 10, 4, 9, 30)]
    assert batches(texts, 20) == [[4], [1, 3], [2, 0]]


def test_the_fingerprint_covers_the_weights_and_the_dead_band(
    folder: Path, tokenizer: Any, tmp_path: Path, place: ModelPlace
) -> None:
    first = RewardModelScorer(choice(folder), place).fingerprint
    assert RewardModelScorer(choice(folder, dead_band=0.5), place).fingerprint != first
    other = write_reward_model(tmp_path / "m", tokenizer)
    assert RewardModelScorer(choice(other), place).fingerprint == first
    train_reward_model(other, made_up_pairs(8), steps=1)
    assert RewardModelScorer(choice(other), place).fingerprint != first


def test_one_that_is_trained_on_pairs_qualifies_on_others(tokenizer: Any, tmp_path: Path, place: ModelPlace) -> None:
    model = write_reward_model(tmp_path / "m", tokenizer)
    negatives = [
        {**row, "rejected": text}
        for row, text in zip(made_up_pairs(40, 7), ["Ok.", "No.", "I can't.", "!"] * 10, strict=True)
    ]
    train_reward_model(
        model, [each for pair in zip(made_up_pairs(120, 8), negatives * 3, strict=True) for each in pair], steps=40
    )
    config = winrate_config(judge={"kind": "reward_model", "source": str(model)})
    folders = qualify.Folders(place.pairs, place.tokens, tmp_path / "out", place.base)
    papers = qualify.run(folders, config, runtime=place.runtime)
    assert papers["agreement"]["agreement"]["value"] > 0.9
    assert papers["learned_from"] is None


@pytest.mark.nightly
def test_one_that_is_trained_on_published_pairs_agrees_with_held_out_ones(
    shared: Path, tmp_path: Path, unstored: ModelPlace
) -> None:
    model = reward_model_of_base(tmp_path / "m", shared / "models/stories260K")
    with gzip.open(shared / "preferences/blimp-minimal-pairs/pairs.jsonl.gz", "rt", encoding="utf-8") as stream:
        pairs = [json.loads(line) for line in stream if "determiner_noun" in line]
    random.Random(0).shuffle(pairs)
    train_reward_model(model, pairs[300:], steps=120, batch=16, rate=2e-3)

    comparisons = [
        Comparison(
            *(pair["id"], 0, Prompt((Turn("user", pair["prompt"]),))), Answer(pair["chosen"]), Answer(pair["rejected"])
        )
        for pair in pairs[:200]
    ]
    games = list(pair_up(ScoreRunner(RewardModelScorer(choice(model), unstored)).verdicts(comparisons)))
    assert agreement_of(games).bound > 0.55
