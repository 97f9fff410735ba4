"""The winrate stage: from answers to evidence, whole or not at all, without torch."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks import qualify, winrate
from tasks.core.errors import ArtifactError
from tasks.core.files import pretty_json, verify_manifest, write_manifest
from tasks.core.params import load_section
from tasks.judges.choice.kinds import ControlJudge, PythonJudge
from tasks.winrate import WinrateConfig
from tests.conftest import ROOT

WARM = "I am so sorry about the crack in your radio number {i}. Leave it to me: I will send a new one to you today."
LISTENS = """
class Listens:
    fingerprint = "listens"
    at_once = 2

    def __init__(self, log):
        self.log = log

    async def judge(self, item):
        from tasks.judges.protocol.protocol import opinion_of

        turns = [[turn.role, turn.text] for turn in item.prompt.turns]
        with open(self.log, "a") as stream:
            stream.write(f"{turns} gold {item.prompt.gold is not None}\\n")
        return opinion_of(0.5)
"""
COLD = "It is not our problem, no {i}. Read the manual and do not write to us again: so we say no to you and bye."


def _params_file() -> Path:
    return next(path for path in (ROOT / "params.yaml", ROOT / "params.d" / "winrate.yaml") if path.is_file())


@pytest.fixture
def config() -> WinrateConfig:
    """The demo's own settings."""
    return load_section(_params_file(), "winrate", WinrateConfig)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The folders that the stage reads, and one to write."""

    def folders(self) -> winrate.Folders:
        return winrate.Folders(*dataclasses.astuple(self))

    responses: Path
    tokens: Path
    pairs: Path
    benchmarks: Path
    qualification: Path
    out: Path

    def run(self, config: WinrateConfig) -> dict:
        """Qualify the judge and judge the answers."""
        qualify.run(qualify.Folders(self.pairs, self.tokens, self.qualification), config)
        return winrate.run(self.folders(), config)

    def lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.out / name).read_text(encoding="utf-8").split("\n") if line]


def _responses(texts: dict[str, list[str]], samples: int = 1) -> list[dict]:
    return [
        {
            "prompt_id": f"p{i}", "side": side, "sample": sample, "text": own[i], "n_tokens": len(own[i].split()),
            "finish": "stop",
        }
        for i in range(len(texts["policy"]))
        for side, own in texts.items()
        for sample in range(samples)
    ]  # fmt: skip


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _inputs(root: Path, texts: dict[str, list[str]], delta: float = 0.5, samples: int = 1) -> Inputs:
    inputs = Inputs(*(root / name for name in ("responses", "tokens", "pairs", "benchmarks", "qualification", "out")))
    for folder in (inputs.responses, inputs.tokens, inputs.pairs, inputs.benchmarks):
        folder.mkdir(parents=True)
    count = len(texts["policy"])
    prompts = [
        {"prompt_id": f"p{i}", "slice": "damage" if i % 2 else "fault", "display": f"d{i}", "ids": [1],
         "question": f"My radio number {i} has a crack.\u2028What now?", "gold_chosen": WARM, "gold_rejected": COLD}
        for i in range(count)
    ]  # fmt: skip
    _write_lines(inputs.tokens / "prompts.jsonl", prompts)
    _write_lines(inputs.responses / "responses.jsonl", _responses(texts, samples))
    (inputs.responses / "metrics.json").write_text(pretty_json({"adapter_max_abs_delta_logit": delta}))
    for split, names in {"train": ["t0", "t1"], "test": [f"p{i}" for i in range(count)]}.items():
        rows = [
            {"pair_id": name, "prompt_id": name, "prompt": json.dumps(f"My radio {name} has a crack. What now?"),
             "chosen": WARM.format(i=name), "rejected": COLD.format(i=name)}
            for name in names
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows), inputs.pairs / f"{split}.parquet")
    (inputs.pairs / "metrics.json").write_text(pretty_json({"rows_by_source": {"demo": count}}))
    (inputs.benchmarks / "metrics.json").write_text(pretty_json({"tasks": {}, "greatest_drop": None}))
    write_manifest(inputs.benchmarks, {"stage": "benchmarks"})
    for folder, stage in ((inputs.responses, "respond"), (inputs.tokens, "encode"), (inputs.pairs, "ingest")):
        write_manifest(folder, {"stage": stage})
    return inputs


def _texts(policy: list[str], reference: list[str], control: list[str] | None = None) -> dict[str, list[str]]:
    return {"policy": policy, "reference": reference, "control": control or reference}


def _mixed(count: int, offset: int) -> list[str]:
    """Answers of which half are good: what an untrained side gives."""
    return [(WARM if (i + offset) % 2 else COLD).format(i=i) for i in range(count)]


@pytest.fixture
def better(tmp_path) -> Inputs:
    """A policy that is always warm against a reference that is so half of the time."""
    n = 40
    control = [(WARM if (i // 2) % 2 else COLD).format(i=i) for i in range(n)]
    return _inputs(tmp_path, _texts([WARM.format(i=i) for i in range(n)], _mixed(n, 0), control))


def test_a_better_policy_wins_where_the_reference_fails(better, config):
    metrics = better.run(config)
    assert (metrics["wins"], metrics["ties"], metrics["losses"]) == (20, 20, 0)
    assert metrics["win_rate"] == 0.75
    assert metrics["coverage"] == 1.0
    assert metrics["lower_bound"] > 0.6
    assert metrics["p_value"] < 0.01
    assert (metrics["consistency"], metrics["first_position_share"]) == (None, None)  # scores have no orders
    assert (metrics["judge_kind"], metrics["qualification"]["kind"]) == ("rules", "rules")
    assert metrics["qualification"]["qualified"] is True
    assert metrics["identical"] == 20  # equal answers are ties that no judge saw
    assert metrics["control"]["low"] < 0.5 < metrics["control"]["high"]
    assert metrics["slices"]["fault"]["win_rate"] == 1.0
    assert metrics["slices"]["damage"] == {"prompts": 20, "win_rate": 0.5} | {
        key: metrics["slices"]["damage"][key] for key in ("low", "high", "p_value")
    }
    assert "refused" in metrics["length_controlled"]
    assert all(guard["passed"] for guard in metrics["guards"].values())


def test_the_evidence_holds_every_verdict_score_and_table(better, config):
    better.run(config)
    verify_manifest(better.out, "winrate")
    verdicts, scores = better.lines("verdicts.jsonl"), better.lines("scores.jsonl")
    assert len(verdicts) == 40 * 2  # prompts; policy and control
    assert {row["order"] for row in verdicts} == {"none"}
    assert verdicts[0]["detail"]["candidate"]["rules"]["required"] == 1.0
    assert [row["prompt_id"] for row in scores] == [f"p{i}" for i in range(40)]
    assert sum(row["score"] for row in scores) / 40 == 0.75
    table = list(csv.DictReader((better.out / "scores.csv").read_text().splitlines()))
    assert (len(table), float(table[0]["score"])) == (40, 1.0)
    assert float(table[0]["policy_total"]) > float(table[0]["reference_total"])
    lengths = list(csv.DictReader((better.out / "lengths.csv").read_text().splitlines()))
    assert (len(lengths), lengths[0]["policy_tokens"]) == (40, "25")
    told = json.loads((better.out / "metrics.json").read_text())
    assert told["smallest_detectable_win_rate"] == pytest.approx(0.721578)  # exact, at the first look


@pytest.fixture
def challenged(tmp_path) -> Inputs:
    """A policy that beats its reference by far, and ties with the champion on all but four prompts, which it wins."""
    n = 40
    champion = [(COLD if i < 4 else WARM).format(i=i) for i in range(n)]
    texts = _texts([WARM.format(i=i) for i in range(n)], _mixed(n, 0), _mixed(n, 1)) | {"champion": champion}
    inputs = _inputs(tmp_path, texts)
    (inputs.responses / "manifest.json").unlink()
    write_manifest(inputs.responses, {"stage": "respond", "inputs": {"champion": "c" * 64}})
    return inputs


def test_a_champion_is_met_head_to_head_and_the_gate_can_weigh_it(challenged, config):
    from tasks.registry.gate.gate import GateConfig, decide
    from tasks.registry.log import evidence

    metrics = challenged.run(config)
    duel = metrics["champion"]
    assert (duel["digest"], duel["wins"], duel["ties"], duel["losses"]) == ("c" * 64, 4, 36, 0)
    assert duel["win_rate"] == 0.55
    assert metrics["win_rate"] == 0.75, "the rate against the reference is what it is without a champion"
    rows = challenged.lines("champion_scores.jsonl")
    assert [row["prompt_id"] for row in rows] == [f"p{i}" for i in range(40)]
    assert [row["score"] for row in rows] == [1.0] * 4 + [0.5] * 36
    opponents = {(row["candidate_side"], row["opponent_side"]) for row in challenged.lines("verdicts.jsonl")}
    assert opponents == {("policy", "reference"), ("control", "reference"), ("policy", "champion")}
    found = evidence.read_folder(challenged.out, "b" * 64, "d" * 64)
    assert found.credits_against("c" * 64) == [1.0] * 4 + [0.5] * 36
    champion = dataclasses.replace(found, version="c" * 64, duel_with=None, duel={})
    decision = decide(found, champion, 1, GateConfig(min_shared_prompts=30))
    assert "win rate against the champion cccccccccccc 0.5500 on 40 prompts" in decision.reasons[0]


def test_the_same_answers_give_the_same_bytes(better, config, tmp_path):
    better.run(config)
    again = dataclasses.replace(better, out=tmp_path / "again")
    again.run(config)
    assert {path.name: path.read_bytes() for path in better.out.iterdir()} == {
        path.name: path.read_bytes() for path in again.out.iterdir()
    }


def test_what_the_gate_can_show_is_told_before_anything_is_judged(better, config, caplog):
    with caplog.at_level("INFO", logger="tasks.winrate"):
        better.run(config)
    told = [record.getMessage() for record in caplog.records if record.name == "tasks.winrate"]
    assert "40 prompts can show the gate a win rate of 72.2 % at look 1, " in told[0]
    assert told[0].endswith("(alpha 0.05 over all looks, power 80 %); a first version needs 50 prompts")


def test_a_sabotaged_policy_loses(tmp_path, config):
    n = 40
    inputs = _inputs(tmp_path, _texts([COLD.format(i=i) for i in range(n)], _mixed(n, 0), _mixed(n, 1)))
    metrics = inputs.run(config)
    assert metrics["win_rate"] == 0.25
    assert metrics["high"] < 0.5


def test_a_constant_answer_wins_but_does_not_pass_the_guards(tmp_path, config):
    constant = ["I am so sorry about the crack in your radio. Leave it to me: I will send a new one to you today."] * 40
    metrics = _inputs(tmp_path, _texts(constant, _mixed(40, 0), _mixed(40, 1))).run(config)
    assert metrics["win_rate"] > 0.7
    assert not metrics["guards"]["distinct_ratio"]["passed"]


def test_an_adapter_that_does_nothing_does_not_pass_the_guards(tmp_path, config):
    same = _mixed(40, 0)
    metrics = _inputs(tmp_path, _texts(same, same), delta=0.0).run(config)
    assert metrics["win_rate"] == 0.5
    failed = {name for name, guard in metrics["guards"].items() if not guard["passed"]}
    assert failed == {"adapter_max_abs_delta_logit", "identical_share"}


def test_samples_of_one_prompt_do_not_count_as_prompts(tmp_path, config):
    texts = _texts([WARM.format(i=i) for i in range(20)], _mixed(20, 0), _mixed(20, 1))
    one, three = _inputs(tmp_path / "1", texts).run(config), _inputs(tmp_path / "3", texts, samples=3).run(config)
    assert (three["prompts"], three["win_rate"], three["se"]) == (one["prompts"], one["win_rate"], one["se"])


@pytest.mark.parametrize("kind", ["length", "random"])
def test_control_judges_find_no_quality_between_equal_lengths(better, config, kind):
    metrics = better.run(dataclasses.replace(config, judge=ControlJudge(kind)))
    assert metrics["judge_kind"] == kind
    assert metrics["low"] <= 0.5
    assert not metrics["qualification"]["qualified"]
    assert not metrics["guards"]["judge_agreement"]["passed"]
    assert metrics["guards"]["control_judge"]["passed"] is False
    orders = {row["order"] for row in better.lines("verdicts.jsonl")}
    assert orders == ({"none"} if kind == "length" else {"AB", "BA"})


def test_a_judge_that_does_not_qualify_is_named_before_it_judges(better, config, caplog):
    caplog.set_level("INFO")
    better.run(dataclasses.replace(config, judge=ControlJudge("random")))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("the judge `random` does not qualify: it agrees with the labels on" in text for text in warnings)
    results = [record.getMessage() for record in caplog.records if "win rate 0." in record.getMessage()]
    assert results[-1].startswith("not to be believed, for a guard fails: win rate 0.")


def test_papers_of_another_judge_are_no_papers(better, config):
    better.run(config)
    with pytest.raises(ArtifactError, match="papers of another judge — run `dvc repro qualify`"):
        winrate.run(better.folders(), dataclasses.replace(config, tie_margin=0.1))


def test_a_whole_conversation_reaches_the_judge(better, config, tmp_path, monkeypatch):
    (tmp_path / "listens.py").write_text(LISTENS)
    monkeypatch.syspath_prepend(tmp_path)
    judge = PythonJudge("python", "listens:Listens", {"log": str(tmp_path / "log")})
    better.run(dataclasses.replace(config, judge=judge))
    assert "[['user', 'My radio p0 has a crack. What now?']] gold True" in (tmp_path / "log").read_text()


def test_an_answer_that_is_missing_is_refused_and_nothing_is_written(better, config):
    path = better.responses / "responses.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[:-1]))
    write_manifest(better.responses, {"stage": "respond"})
    with pytest.raises(ArtifactError, match=r"control and reference did not answer the same \(prompt p39\)"):
        better.run(config)
    assert not better.out.exists()


def test_a_torn_line_is_refused_by_file(better, config):
    with (better.responses / "responses.jsonl").open("a") as stream:
        stream.write('{"prompt_id": "p')
    write_manifest(better.responses, {"stage": "respond"})
    with pytest.raises(ArtifactError, match=r"line \d+ of .*responses\.jsonl is not JSON"):
        better.run(config)


def test_a_damaged_input_folder_is_refused(better, config):
    (better.tokens / "prompts.jsonl").write_text("")
    with pytest.raises(ArtifactError, match="its manifest says"):
        better.run(config)


def test_the_stage_needs_no_torch(better):
    code = (
        "import sys; from pathlib import Path; from tasks import winrate; from tasks.core.params import load_section;"
        "a = [Path(p) for p in sys.argv[1:]];"
        "config = load_section(a[6], 'winrate', winrate.WinrateConfig);"
        "from tasks import qualify; qualify.run(qualify.Folders(a[2], a[1], a[4]), config);"
        "winrate.run(winrate.Folders(*a[:6]), config);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    paths = (*dataclasses.astuple(better), _params_file())
    done = subprocess.run([sys.executable, "-c", code, *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (better.out / "manifest.json").is_file()


def test_prompts_of_a_set_of_ones_own_are_judged_as_a_slice(better, config):
    asked = "Why is my lamp so warm, and what now?"
    row = {"prompt_id": "own", "set": "mine", "slice": "mine", "display": asked, "question": asked, "ids": [1, 2]}
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": asked}]
    _write_lines(better.responses / "added_prompts.jsonl", [{**row, "prompt": json.dumps(turns)}])
    with (better.responses / "responses.jsonl").open("a") as stream:
        for side, text in {"policy": WARM, "reference": COLD, "control": COLD}.items():
            answer = {"prompt_id": "own", "side": side, "sample": 0, "text": text, "n_tokens": 9, "finish": "stop"}
            stream.write(json.dumps(answer) + "\n")
    write_manifest(better.responses, {"stage": "respond"})
    metrics = better.run(config)
    assert (metrics["slices"]["mine"]["prompts"], metrics["slices"]["mine"]["win_rate"]) == (1, 1.0)
    assert metrics["guards"]["seen_prompt_share"]["passed"]

    seen = {**row, "prompt": json.dumps("My radio t0 has a crack. What now?")}
    _write_lines(better.responses / "added_prompts.jsonl", [seen])
    write_manifest(better.responses, {"stage": "respond"})
    assert not better.run(config)["guards"]["seen_prompt_share"]["passed"], "it stands in the training data"
