"""The judge `own`: fitted on training pairs, measured on held-out ones, hard to fool, the same on every run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import qualify
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.files import atomic_folder
from tasks.judges.choice.build import build_judge
from tasks.judges.models import hidden_states, own_reader
from tasks.judges.models.model_choices import ModelPlace, OwnJudge
from tasks.judges.models.own_fitting import drawn_pairs, fit_own, write_head
from tasks.judges.models.own_judge_file import HEAD_FILE, OwnModel
from tasks.judges.models.own_reader import OwnReader, prompt_encoder
from tasks.judges.models.own_scorer import OwnScorer
from tasks.judges.models.row_cache import TokenText
from tasks.judges.protocol.protocol import Answer, Prompt, Response, Score, Turn
from tasks.judges.qualification.canaries import CANARIES
from tasks.judges.qualification.labelled_pairs import held_out_pairs
from tasks.judges.qualification.qualification import read_papers
from tasks.pairs.encoding.encoder import EncodeConfig
from tasks.pairs.encoding.positions import Positions
from tasks.pairs.record.pair import Pair
from tasks.pairs.record.parquet import stored_pairs
from tests.judges.models.conftest import made_up_pairs, winrate_config, write_jsonl

OWN = OwnJudge("own")


def qualified(place: ModelPlace, out: Path, **changes: Any) -> dict[str, Any]:
    """Run the stage `qualify` and return the papers."""
    folders = qualify.Folders(place.pairs, place.tokens, out, place.base)
    return qualify.run(folders, winrate_config(**changes), EncodeConfig(text_as="chat"), place.runtime)


def without_store(place: ModelPlace, **runtime: Any) -> ModelPlace:
    """The same place, where nothing is recalled."""
    return dataclasses.replace(place, runtime=dataclasses.replace(place.runtime, row_store="", **runtime))


def values(scores: list[Score]) -> list[float]:
    return [score.value for score in scores if score.value is not None]


def response(place: ModelPlace, text: str) -> Response:
    prompt = held_out_pairs(place.pairs, place.tokens, 1)[0].prompt
    return Response(prompt, Answer(text))


def test_it_is_the_judge_of_other_data_and_agrees_with_labels_it_never_saw(place: ModelPlace, tmp_path: Path) -> None:
    papers = qualified(place, tmp_path / "out", judge={"kind": "auto"})
    assert papers["kind"] == "own"
    assert papers["agreement"]["agreement"]["value"] > 0.9
    assert papers["canaries"] == dict.fromkeys(CANARIES, 1.0)
    assert papers["qualified"]
    learned = papers["learned_from"]
    assert learned["what"] == "training labels"
    assert learned["pairs"] == sum(1 for _ in drawn_pairs(place, 1000))
    assert learned["agreement_out_of_fold"] > 0.9
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == papers


def test_the_judge_that_was_measured_is_the_one_that_judges(place: ModelPlace, tmp_path: Path) -> None:
    papers = qualified(place, tmp_path / "out", judge={"kind": "auto"})
    later = dataclasses.replace(place, qualification=tmp_path / "out")
    judge = build_judge(winrate_config(judge={"kind": "auto"}), place.pairs, later)
    assert judge.fingerprint == papers["judge"]
    assert read_papers(tmp_path / "out", judge.fingerprint) == papers
    panel = {"kind": "panel", "members": [{"kind": "own"}, {"kind": "length"}]}
    assert qualified(place, tmp_path / "panel", judge=panel)["learned_from"]["pairs"] == papers["learned_from"]["pairs"]


def test_labels_that_mean_nothing_do_not_qualify_it_and_it_says_what_would_help(
    place: ModelPlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # the same pairs, every second one with its labels swapped in a file of labelled pairs
    rows = made_up_pairs(60, seed=9)
    for row in rows[::2]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    file = str(write_jsonl(tmp_path / "swapped.jsonl", rows))
    with caplog.at_level("WARNING"):
        papers = qualified(
            place,
            tmp_path / "out",
            judge={"kind": "own"},
            qualification={"pairs": 60, "file": file, "min_agreement": 0.5},
        )
    assert not papers["qualified"]
    assert papers["agreement"]["invalid"] == 0, "the file's prompts are tokenised as `encode` does"
    assert "the judge `own` does not qualify: it agrees with the labels on" in caplog.text
    assert "what would help: more labelled pairs" in caplog.text
    assert "{kind: openai" in caplog.text


def test_two_fits_are_the_same_bytes_and_the_second_reads_nothing_again(
    place: ModelPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_head(OWN, place)
    first = (place.qualification / HEAD_FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(hidden_states, "load_base", lambda *_: pytest.fail("a row was read again"))
        write_head(OWN, place)
    assert (place.qualification / HEAD_FILE).read_bytes() == first
    assert fit_own(OWN, without_store(place)).digest == OwnModel.load(place.qualification / HEAD_FILE).digest


def test_a_score_depends_on_no_other_answer_of_its_batch(place: ModelPlace) -> None:
    write_head(OWN, place)
    pairs = held_out_pairs(place.pairs, place.tokens, 20)
    answers = [Response(pair.prompt, answer) for pair in pairs for answer in (pair.candidate, pair.opponent)]
    none_stored = without_store(place)
    together = OwnScorer(OWN, none_stored).score(answers)
    alone = [OwnScorer(OWN, none_stored).score([answer])[0] for answer in answers[:4]]
    small = dataclasses.replace(
        none_stored, runtime=dataclasses.replace(none_stored.runtime, tokens_per_micro_batch=80)
    )
    assert values(together[:4]) == pytest.approx(values(alone), abs=2e-4)
    assert values(OwnScorer(OWN, small).score(answers)) == pytest.approx(values(together), abs=2e-4)


def test_what_answers_nothing_gets_the_least_score(place: ModelPlace) -> None:
    write_head(OWN, place)
    scorer = OwnScorer(OWN, place)
    good = scorer.score([response(place, made_up_pairs(1, seed=5)[0]["chosen"])])[0]
    for text in ("", "  \n", ".", "?!", *CANARIES.values()):
        score = scorer.score([response(place, text)])[0]
        assert score.value is not None
        assert good.value is not None
        assert score.value < good.value, text


def test_no_answer_gets_more_than_the_best_training_reply(place: ModelPlace) -> None:
    write_head(OWN, place)
    head = OwnModel.load(place.qualification / HEAD_FILE).head
    flood = "We will send a new lamp today. " * 30
    value = OwnScorer(OWN, place).score([response(place, flood)])[0].value
    assert value is None or head.lowest - 1e-4 <= value <= head.highest + 1e-4


def test_an_answer_beyond_the_positions_is_invalid_and_not_cut(place: ModelPlace) -> None:
    write_head(OWN, place)
    score = OwnScorer(OWN, place).score([response(place, " ".join(row["chosen"] for row in made_up_pairs(200)))])[0]
    assert (score.status, score.value) == ("invalid", None)
    assert "positions" in score.detail["reason"]


def test_blanks_around_a_reply_and_how_it_ended_change_no_score(place: ModelPlace) -> None:
    write_head(OWN, place)
    one = response(place, "We will send a new lamp today and it is with you tomorrow.")
    other = Response(one.prompt, Answer(f" {one.answer.text}\n", finish="length"))
    first, second = OwnScorer(OWN, place).score([one, other])
    assert first == second


def test_a_special_token_in_an_answer_is_letters(place: ModelPlace) -> None:
    reader = OwnReader(place)
    end = reader.base.load_tokenizer().eos_token
    text = reader.text((1, 2), f"We will send it.{end} Good.")
    assert isinstance(text, TokenText)
    assert reader.base.load_tokenizer().eos_token_id not in text.ids[text.start :]


def test_a_prompt_without_tokens_is_invalid(place: ModelPlace) -> None:
    write_head(OWN, place)
    score = OwnScorer(OWN, place).score([Response(Prompt((Turn("user", "Hello?"),)), Answer("Hello to you."))])[0]
    assert (score.status, score.detail) == ("invalid", {"reason": "its prompt has no tokens"})


def test_prompts_of_a_file_have_the_tokens_that_encode_gives_them(place: ModelPlace) -> None:
    ids = {pair.prompt_id: pair.prompt.ids for pair in held_out_pairs(place.pairs, place.tokens, 5)}
    encoder = prompt_encoder(place, EncodeConfig(text_as="chat"))
    pairs = [pair for batch in stored_pairs(place.pairs / "test.parquet") for pair in batch]
    same = {pair.prompt_id: encoder(pair) for pair in pairs if pair.prompt_id in ids}
    assert same == ids


def test_a_dropped_pair_has_no_prompt_tokens(place: ModelPlace) -> None:
    blank = Pair("Hello?", "", "", "x", "x", 1.0, 0.0)
    assert prompt_encoder(place, EncodeConfig(text_as="chat"))(blank) == ()


def test_few_pairs_are_drawn_by_hash_and_more_keep_them(place: ModelPlace) -> None:
    few, many = drawn_pairs(place, 10), drawn_pairs(place, 40)
    assert many[:10] == few


def test_data_without_a_readable_pair_decide_nothing(place: ModelPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_reader.Positions, "of", lambda _: Positions(1, False))
    write_head(OWN, place)
    monkeypatch.undo()
    scores = OwnScorer(OWN, place).score([response(place, "We will send it."), response(place, "Read the manual.")])
    assert [score.value for score in scores] == [0.0, 0.0]


def test_hidden_states_that_are_not_finite_are_refused(place: ModelPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_states, "_features", lambda _, texts, __: np.full((len(texts), 8), np.nan, np.float32))
    with pytest.raises(ArtifactError, match=r"not finite for 236 of 236 replies — set `base.compute_dtype: float32`"):
        fit_own(OWN, place)


def test_a_head_of_another_base_is_refused(place: ModelPlace, tmp_path: Path) -> None:
    write_head(OWN, place)
    manifest = json.loads((place.base / "manifest.json").read_text())
    with atomic_folder(tmp_path / "base", {**manifest, "digest": "another"}) as draft:
        for name in manifest["files"]:
            (draft / name).write_bytes((place.base / name).read_bytes())
    with pytest.raises(ArtifactError, match="was fitted on another base, or by another version — run `dvc"):
        OwnScorer(OWN, dataclasses.replace(place, base=tmp_path / "base"))


@pytest.mark.parametrize("content", [None, b"no tensors"])
def test_a_missing_or_damaged_head_is_refused(place: ModelPlace, content: bytes | None) -> None:
    if content is not None:
        (place.qualification / HEAD_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"holds no fitted judge \(.*\) — run `dvc repro -f qualify`"):
        OwnScorer(OWN, place)


def test_the_fingerprint_covers_head_and_dead_band(place: ModelPlace) -> None:
    write_head(OWN, place)
    first = OwnScorer(OWN, place).fingerprint
    assert OwnScorer(OwnJudge("own", dead_band=0.1), place).fingerprint != first
    write_head(OwnJudge("own", pairs=30), place)
    assert OwnScorer(OWN, place).fingerprint != first


def test_a_panel_has_one_head() -> None:
    members = [{"kind": "own"}, {"kind": "own", "pairs": 5}]
    with pytest.raises(ConfigError, match="has `own` twice, and one head is fitted — name it once"):
        winrate_config(judge={"kind": "panel", "members": members})
