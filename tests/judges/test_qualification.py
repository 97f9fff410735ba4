"""A judge's papers: agreement, κ and first-position share by hand, canaries, and who qualifies."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from tasks.core.errors import ArtifactError, DataError
from tasks.core.files import pretty_json, write_manifest
from tasks.judges.games.games import Comparison, Game
from tasks.judges.games.runners import PairRunner, ScoreRunner
from tasks.judges.protocol.protocol import Answer, Item, Opinion, Prompt, Turn, opinion_of
from tasks.judges.qualification.agreement import agreement_of
from tasks.judges.qualification.canaries import CANARIES, PROMPTS, lost_shares
from tasks.judges.qualification.labelled_pairs import held_out_pairs, pairs_of_file, turns_of
from tasks.judges.qualification.qualification import papers_of, read_papers
from tasks.judges.rules.controls import LengthScorer, RandomJudge
from tasks.pairs.record.pair import Message, Pair
from tasks.pairs.record.parquet import PairWriter

GOOD = "We have looked at your order and the parcel leaves our store tomorrow at noon"


def games(*credits: tuple[float, float], has_orders: bool = True) -> list[Game]:
    return [Game(f"p{i}", 0, first, second, True, has_orders) for i, (first, second) in enumerate(credits)]


def labelled(count: int) -> list[Comparison]:
    """Pairs whose chosen answer is longer for every third prompt only."""
    return [
        Comparison(
            f"p{i}", 0, Prompt((Turn("user", f"Where is parcel {i}?"),)), Answer(f"{GOOD}, number {i}."),
            Answer("No idea." if i % 3 == 0 else f"{GOOD}, number {i}, or so they say, who knows."),
        )
        for i in range(count)
    ]  # fmt: skip


class Knows:
    """A pair judge that finds the answer that begins as a good one and ends well."""

    fingerprint = "knows"

    async def judge(self, item: Item) -> Opinion:
        first, second = (
            answer.text.startswith(GOOD) - ("or so they say" in answer.text) for answer in (item.first, item.second)
        )
        return opinion_of(0.5 if first == second else float(first > second))


def test_agreement_and_kappa_by_hand() -> None:
    # of 10 pairs: 6 agree in both orders, 2 disagree in both, 1 says "first" twice, 1 has no verdict
    both = games(*[(1.0, 1.0)] * 6, *[(0.0, 0.0)] * 2, (1.0, 0.0), (math.nan, 1.0))
    result = agreement_of(both)
    assert (result.pairs, result.decided, result.ties, result.invalid) == (10, 8, 1, 1)
    assert result.agreement is not None
    assert result.agreement.value == 0.75
    # Clopper-Pearson of 6 of 8: two-sided 95 %, and one-sided 95 % for the bound
    assert result.agreement.low == pytest.approx(0.349144, abs=1e-6)
    assert result.agreement.high == pytest.approx(0.968146, abs=1e-6)
    assert result.bound == pytest.approx(0.400311, abs=1e-6)

    # 18 verdicts: 13 name the label. The judge says "first" 10 times: 6 + 2 + 2, "second" 8 times
    observed, expected = 13 / 18, 0.5 * 10 / 18 + 0.5 * 8 / 18
    assert result.kappa is not None
    assert result.kappa.value == pytest.approx((observed - expected) / (1 - expected))
    assert result.kappa.low < result.kappa.value < result.kappa.high

    assert result.first_position_share is not None
    assert result.first_position_share.value == pytest.approx((8 * 0.5 + 1.0) / 9)
    assert result.consistency == pytest.approx(8 / 9)


def test_a_tie_is_a_label_of_its_own_for_kappa() -> None:
    result = agreement_of(games((1.0, 1.0), (0.5, 0.5), has_orders=False))
    # 4 verdicts: 2 agree; the judge says first once, second once, tie twice
    assert result.kappa is not None
    assert result.kappa.value == pytest.approx((0.5 - 0.25) / 0.75)
    assert (result.first_position_share, result.consistency) == (None, None)


def test_nothing_decided_shows_nothing() -> None:
    for none in (games(), games((0.5, 0.5)), games((math.nan, math.nan))):
        result = agreement_of(none)
        assert (result.agreement, result.bound, result.decided) == (None, 0.0, 0)


def test_a_judge_that_knows_qualifies() -> None:
    papers = papers_of(PairRunner(Knows()), "python", labelled(60), 0.5)
    assert papers.faults() == []
    assert papers.agreement.agreement is not None
    assert papers.agreement.agreement.value == 1.0
    assert papers.length_agreement.agreement is not None
    assert papers.length_agreement.agreement.value == pytest.approx(1 / 3)
    assert papers.canaries == dict.fromkeys(CANARIES, 1.0)
    assert papers.as_json()["qualified"] is True
    assert json.loads(json.dumps(papers.as_json()))["agreement"]["bound"] > 0.9


def test_a_coin_and_length_do_not_qualify_and_are_told_why() -> None:
    coin = papers_of(PairRunner(RandomJudge(0)), "random", labelled(60), 0.5)
    assert "is not above 0.5" in coin.faults()[0]
    assert any("canary" in fault for fault in coin.faults())
    length = papers_of(ScoreRunner(LengthScorer()), "length", labelled(60), 0.5)
    assert "33.3 % of 60 decided pairs" in length.faults()[0]
    assert any("canary `instruction`" in fault for fault in length.faults())


def test_few_pairs_qualify_nobody() -> None:
    assert "only 10 labelled pairs" in papers_of(PairRunner(Knows()), "python", labelled(10), 0.5).faults()[0]


def test_a_preferred_position_is_told() -> None:
    class Leans(Knows):
        async def judge(self, item: Item) -> Opinion:
            opinion = await super().judge(item)
            return opinion if int(item.item_id[1:].split("/")[0]) % 3 == 0 else opinion_of(1.0)

    papers = papers_of(PairRunner(Leans()), "python", labelled(90), 0.5)
    assert papers.agreement.first_position_share is not None
    assert papers.agreement.first_position_share.value == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert any("prefer a position" in fault for fault in papers.faults())


def test_a_canary_that_is_preferred_is_told() -> None:
    class Obeys(Knows):
        async def judge(self, item: Item) -> Opinion:
            for place, answer in enumerate((item.first, item.second)):
                if "Note to the judge" in answer.text:
                    return opinion_of(1.0 - place)
            return await super().judge(item)

    shares = lost_shares(PairRunner(Obeys()), labelled(30))
    assert shares == {**dict.fromkeys(CANARIES, 1.0), "instruction": 0.0}
    assert any(
        "canary `instruction`" in fault for fault in papers_of(PairRunner(Obeys()), "x", labelled(30), 0.5).faults()
    )


def test_canaries_stand_against_good_answers_only() -> None:
    refusing = [
        dataclasses.replace(pair, candidate=Answer("I am sorry, I cannot tell you that.")) for pair in labelled(30)
    ]
    assert lost_shares(PairRunner(Knows()), refusing) == {}
    assert any("compare canaries" in fault for fault in papers_of(PairRunner(Knows()), "x", refusing, 0.5).faults())
    assert PROMPTS <= 30


def test_papers_of_another_judge_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(pretty_json({"judge": "a", "faults": []}))
    assert read_papers(tmp_path, "a")["faults"] == []
    with pytest.raises(ArtifactError, match="papers of another judge — run `dvc repro qualify`"):
        read_papers(tmp_path, "b")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Held-out pairs: of three prompts one has two pairs, and one was left out by `encode`."""
    pairs, tokens = tmp_path / "pairs", tmp_path / "tokens"
    pairs.mkdir()
    tokens.mkdir()
    talk = (Message("system", "Be kind."), Message("user", "Hello?"))
    rows = [Pair("a", "yes", "no"), Pair("a", "sure", "never"), Pair(talk, "hi", "go"), Pair("long", "x", "y")]
    with PairWriter(pairs / "test.parquet") as writer:
        for pair in rows:
            writer.append(pair)
    kept = {pair.prompt_id: {"prompt_id": pair.prompt_id, "ids": [1, 2]} for pair in rows[:3]}
    (tokens / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept.values()))
    for folder in (pairs, tokens):
        write_manifest(folder, {"stage": "test"})
    return pairs, tokens


def test_one_pair_a_prompt_is_drawn_with_its_whole_conversation(folders: tuple[Path, Path]) -> None:
    drawn = held_out_pairs(*folders, 10)
    assert len(drawn) == 2
    assert {pair.prompt.turns for pair in drawn} == {
        (Turn("user", "a"),), (Turn("system", "Be kind."), Turn("user", "Hello?"))
    }  # fmt: skip
    assert {pair.candidate.text for pair in drawn} <= {"yes", "sure", "hi"}
    assert all(pair.prompt.gold is None for pair in drawn), "a judge must not see the label"
    assert held_out_pairs(*folders, 1) == drawn[:1]
    assert turns_of('"text"') == (Turn("user", "text"),)


def test_a_file_of_labelled_pairs_is_read_as_ingest_reads_one(tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl"
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad"} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = pairs_of_file(str(path), 3)
    assert [(pair.candidate.text, pair.opponent.text) for pair in drawn] == [("good", "bad")] * 3

    path.write_text('{"prompt": "q", "chosen": "good"}\n')
    with pytest.raises(DataError):
        pairs_of_file(str(path), 3)
