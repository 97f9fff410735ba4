"""The respond stage, on the real stories260K base with a random adapter: repeatable, whole, fair to all sides."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, ConfigError, DataError
from tasks.core.files import (
    atomic_folder,
    pretty_json,
    read_manifest,
    verify_manifest,
    write_manifest,
    write_text,
)
from tasks.core.params import load_section
from tasks.core.pinned_adapter import CONFIG as CONFIG_FILE
from tasks.core.pinned_adapter import WEIGHTS, adapter_digest
from tasks.dpo.generation import answering
from tasks.dpo.generation.answering import merge
from tasks.dpo.generation.batchwise import generate_batch
from tasks.dpo.generation.held_out import choose_prompts, read_prompts
from tasks.dpo.generation.questions import Request, Sampling, draws, plan_batches
from tasks.dpo.generation.respond_config import tell_of_sampling
from tasks.dpo.generation.server import ServerConfig
from tasks.dpo.generation.sides import max_abs_delta_logit
from tasks.dpo.model.adapter import LoraSettings, attach_lora
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.training.adapter_saving import save_adapter
from tasks.pairs.encoding.encoder import EncodeConfig
from tasks.pairs.encoding.turn_marks import turn_marks
from tasks.respond import RespondConfig
from tests.conftest import ROOT
from tests.dpo.test_kl_to_base import by_whole_logits
from tests.dpo.test_sharding import needs_deepspeed
from tests.stages.responding import CONFIG, Inputs, inputs_in


@pytest.fixture(scope="session")
def finished(tokens: Path, pinned: Path, adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A finished run, to compare others with."""
    done = inputs_in(tmp_path_factory.mktemp("finished"), tokens, pinned, adapter)
    done.run()
    return done


def test_every_side_answers_every_prompt_once_in_order(finished):
    inputs = finished
    metrics = json.loads((inputs.out / "metrics.json").read_text())
    verify_manifest(inputs.out, "respond")
    rows = inputs.rows()
    sides = ("policy", "reference", "control")
    assert [(row["prompt_id"], row["side"], row["sample"]) for row in rows] == [
        (f"id{i}", side, 0) for i in range(5) for side in sides
    ]
    texts = {side: [row["text"] for row in rows if row["side"] == side] for side in sides}
    assert texts["policy"] != texts["reference"] != texts["control"]
    assert {row["finish"] for row in rows} == {"stop", "length"}
    assert all(row["n_tokens"] == 12 for row in rows if row["finish"] == "length")
    assert all(row["n_tokens"] < 12 and "." not in row["text"] for row in rows if row["finish"] == "stop")
    assert metrics["adapter_max_abs_delta_logit"] > 0.1
    assert (metrics["prompts"], metrics["samples"]) == (5, 1)
    assert metrics["sides"]["policy"]["distinct_ratio"] == 1.0
    assert not inputs.work.exists() or not any(inputs.work.iterdir())


def test_the_divergence_to_the_base_is_that_of_the_policys_own_answers(finished, policy, tokens):
    metrics = json.loads((finished.out / "metrics.json").read_text())
    sampling = Sampling(0.8, 0.95, 12, tuple(json.loads((tokens / "template.json").read_text())["eos_token_ids"]), 0)
    nats, count = [], 0
    for line in (tokens / "prompts.jsonl").read_text().splitlines():
        prompt = json.loads(line)
        request = Request(prompt["prompt_id"], 0, tuple(prompt["ids"]))
        drawn = generate_batch(policy, [request], sampling, "policy")[0].drawn
        nats.append(by_whole_logits(policy, request.ids, drawn))
        count += len(drawn)
    se = torch.tensor(nats, dtype=torch.float64).std() / 5**0.5
    expected = {"per_answer": sum(nats) / 5, "per_answer_se": float(se), "per_token": sum(nats) / count}
    assert metrics["kl"] == pytest.approx(expected, rel=1e-3)
    assert all(set(row) == {*["prompt_id", "side", "sample", "text", "n_tokens", "finish"]} for row in finished.rows())


CHAMPION = f"registry:demo@{'c' * 64}"


def pin_champion(folder: Path, adapter: Path, base: str | None = None) -> None:
    """Write ``adapter`` into ``folder`` as the adapters stage does with a version of the registry."""
    shutil.rmtree(folder, ignore_errors=True)
    about = {"stage": "adapters", "source": CHAMPION, "digest": adapter_digest(adapter)}
    with atomic_folder(folder, {**about, "base": base, "name": "demo", "version": "c" * 64}) as draft:
        for name in (WEIGHTS, CONFIG_FILE):
            shutil.copy(adapter / name, draft)


def test_a_champion_answers_beside_the_others_by_its_own_adapter(adapter, pinned, inputs, finished, tmp_path):
    pin_champion(inputs.champion, adapter)
    metrics = inputs.run(dataclasses.replace(CONFIG, temperature=0.0, champion=CHAMPION))
    sides = ("policy", "reference", "control", "champion")
    assert [(row["prompt_id"], row["side"]) for row in inputs.rows()] == [
        (f"id{i}", side) for i in range(5) for side in sides
    ]
    texts = {(row["prompt_id"], row["side"]): row["text"] for row in inputs.rows()}
    assert all(texts[f"id{i}", "champion"] == texts[f"id{i}", "policy"] for i in range(5)), "the same adapter"
    assert any(texts[f"id{i}", "champion"] != texts[f"id{i}", "reference"] for i in range(5))
    assert metrics["sides"]["champion"] == metrics["sides"]["policy"]
    assert read_manifest(inputs.out, "respond")["inputs"]["champion"] == "c" * 64

    idle = tmp_path / "idle"
    idle.mkdir()
    does_nothing = attach_lora(load_base(BaseModel.open(pinned)), LoraSettings(rank=4, alpha=8), seed=0)
    save_adapter(does_nothing, idle, BaseModel.open(pinned))
    pin_champion(inputs.champion, idle)
    other = dataclasses.replace(inputs, out=tmp_path / "other")
    metrics = other.run(dataclasses.replace(CONFIG, champion=CHAMPION))
    assert metrics["kl"] == json.loads((finished.out / "metrics.json").read_text())["kl"]
    rows = [row for row in other.rows() if row["side"] != "champion"]
    assert rows == finished.rows(), "no other side's answers change because a champion answers, too"


def test_a_champion_of_another_base_is_refused(adapter, inputs):
    pin_champion(inputs.champion, adapter, base="9" * 64)
    said = r"champion holds an adapter of another base \(digest 999999999999\) — run `dvc repro adapters`"
    with pytest.raises(ArtifactError, match=said):
        inputs.run(dataclasses.replace(CONFIG, champion=CHAMPION))
    assert not inputs.out.exists()


def test_a_champion_that_params_do_not_name_is_refused(adapter, inputs):
    pin_champion(inputs.champion, adapter)
    said = r"champion holds the adapter registry:demo@c+, `respond.champion` is null — run `dvc repro adapters`"
    with pytest.raises(ArtifactError, match=said):
        inputs.run()
    assert not inputs.out.exists()


def test_two_runs_give_the_same_bytes(finished, inputs):
    inputs.run()
    for name in ("responses.jsonl", "metrics.json", "manifest.json"):
        assert (inputs.out / name).read_bytes() == (finished.out / name).read_bytes()


def test_another_seed_gives_other_answers(finished, inputs):
    inputs.run(dataclasses.replace(CONFIG, seed=1))
    assert inputs.rows() != finished.rows()


def test_batches_do_not_change_the_answers(finished, inputs):
    inputs.run(dataclasses.replace(CONFIG, batch_tokens=1))
    assert inputs.rows() == finished.rows()


@pytest.mark.e2e
@pytest.mark.parametrize("sharding", ["none", "fsdp", pytest.param("deepspeed", marks=needs_deepspeed)])
def test_one_rank_and_two_ranks_write_the_same_file(finished, inputs, tmp_path, sharding):
    script = tmp_path / "ranks.py"
    script.write_text(
        "import dataclasses, sys\nfrom pathlib import Path\nfrom tasks import respond\n"
        "from tasks.core.runtime import RuntimeConfig\nfrom tests.stages.responding import CONFIG\n"
        "config = dataclasses.replace(CONFIG, batch_tokens=1)\n"  # five batches: a rank has one more than the other
        f"runtime = RuntimeConfig(device='cpu', sharding={sharding!r})\n"
        "respond.run(respond.Folders(*map(Path, sys.argv[1:])), config, runtime)\n"
    )
    two = inputs
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    folders = [str(folder) for folder in (two.tokens, two.base, two.adapter, two.champion, two.out, two.work)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([*command, *folders], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (two.out / "responses.jsonl").read_bytes() == (finished.out / "responses.jsonl").read_bytes()
    assert (two.out / "metrics.json").read_bytes() == (finished.out / "metrics.json").read_bytes()


def test_a_killed_run_goes_on_from_its_finished_parts(finished, inputs, monkeypatch):
    real, calls = answering.answer_all, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(answering, "answer_all", interrupted)
    with pytest.raises(KeyboardInterrupt):
        inputs.run()
    assert not inputs.out.exists()
    assert len(list(inputs.work.rglob("part-*.json"))) == 1
    inputs.run()
    assert len(calls) == 2 + 2  # of three sides the first is not run again, the second and the third are
    assert (inputs.out / "responses.jsonl").read_bytes() == (finished.out / "responses.jsonl").read_bytes()
    assert not any(inputs.work.glob("*"))


def test_greedy_answers_of_reference_and_control_agree(inputs):
    inputs.run(dataclasses.replace(CONFIG, temperature=0.0))
    texts = {(row["prompt_id"], row["side"]): row["text"] for row in inputs.rows()}
    assert all(texts[f"id{i}", "reference"] == texts[f"id{i}", "control"] for i in range(5))


def test_the_reference_side_is_the_bare_base(pinned, policy, tokens):
    sampling = Sampling(0.0, 1.0, 8, (2,), 0)
    prompt = json.loads((tokens / "prompts.jsonl").read_text().split("\n")[0])
    answer = generate_batch(policy, [Request("id0", 0, tuple(prompt["ids"]))], sampling, "reference")[0]
    bare, ids = load_base(BaseModel.open(pinned)), torch.tensor([prompt["ids"]])
    for token in answer.ids:
        assert int(bare(input_ids=ids).logits[0, -1].argmax()) == token
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)


def test_draws_follow_the_models_own_probabilities(policy):
    request = [Request(f"id{i}", 0, (1, 403)) for i in range(3000)]
    answers = generate_batch(policy, request, Sampling(1.0, 1.0, 1, (2,), 0), "policy")
    with torch.inference_mode():
        expected = policy(input_ids=torch.tensor([[1, 403]])).logits[0, -1].softmax(-1)
    seen = torch.bincount(torch.tensor([answer.ids[0] for answer in answers if answer.ids]), minlength=512) / 3000
    assert float((seen - expected).abs().max()) < 0.03
    assert float((seen - expected).abs().sum()) < 0.35


def test_top_p_leaves_only_the_likeliest_tokens(policy):
    request = [Request(f"id{i}", 0, (1, 403)) for i in range(200)]
    answers = generate_batch(policy, request, Sampling(1.0, 1e-6, 1, (2,), 0), "policy")
    assert len({answer.ids for answer in answers}) == 1


def test_draws_depend_on_seed_side_prompt_and_sample():
    one = Request("p", 0, ())
    keys = [(0, "policy", one), (1, "policy", one), (0, "control", one), (0, "policy", Request("q", 0, ())),
            (0, "policy", Request("p", 1, ()))]  # fmt: skip
    assert len({tuple(draws(*key, 4)) for key in keys}) == 5
    assert draws(0, "policy", one, 4)[:2].tolist() == draws(0, "policy", one, 2).tolist()


def test_generation_leaves_the_number_of_threads_as_it_was(policy):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    generate_batch(policy, [Request("p", 0, (1, 403))], Sampling(1.0, 1.0, 2, (2,), 0), "control")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_an_adapter_that_does_nothing_moves_no_logit(pinned):
    fresh = attach_lora(load_base(BaseModel.open(pinned)), LoraSettings(rank=4, alpha=8), seed=0)
    assert max_abs_delta_logit(fresh, [(1, 5, 7), (1,)]) == 0.0


def test_batches_keep_to_the_budget_longest_first():
    requests = [Request(f"p{i}", 0, (0,) * (1 + i % 7)) for i in range(20)] + [Request("long", 0, (0,) * 90)]
    batches = plan_batches(requests, 10, 60)
    assert sorted(request.prompt_id for batch in batches for request in batch) == sorted(r.prompt_id for r in requests)
    assert batches[0] == [requests[-1]]
    assert all(len(batch) * (len(batch[0].ids) + 10) <= 60 for batch in batches[1:])
    assert plan_batches(list(reversed(requests)), 10, 60) == batches


def test_prompts_are_chosen_by_hash_and_stay_chosen_when_data_grows():
    few, many = ([{"prompt_id": f"p{i}"} for i in range(n)] for n in (50, 60))
    chosen, later = choose_prompts(few, 20), choose_prompts(many, 20)
    assert len(chosen) == 20
    assert chosen == [row for row in few if row in chosen]
    assert [row for row in later if row in few] == [row for row in chosen if row in later]
    assert choose_prompts(few, 50) == choose_prompts(few, None) == few


def test_a_missing_or_doubled_answer_is_refused():
    rows = [{"prompt_id": "p", "side": side, "sample": 0} for side in ("policy", "reference", "control")]
    assert merge(list(reversed(rows)), [{"prompt_id": "p"}], ("policy", "reference", "control"), 1) == rows
    for wrong in (rows[1:], [*rows, rows[0]], [*rows, {**rows[0], "prompt_id": "q"}]):
        with pytest.raises(ArtifactError, match="1 answers are missing, doubled or unasked for"):
            merge(wrong, [{"prompt_id": "p"}], ("policy", "reference", "control"), 1)


def test_a_prompt_too_long_for_the_model_is_refused_by_id(inputs):
    with pytest.raises(ConfigError, match=r"prompt id\d has \d+ tokens, and 510 new ones do not fit"):
        inputs.run(dataclasses.replace(CONFIG, max_new_tokens=510))
    assert not inputs.out.exists()


def test_an_adapter_of_another_shape_is_refused(inputs, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    told = json.loads((inputs.adapter / "adapter_config.json").read_text())
    write_text(folder / "adapter_config.json", pretty_json({**told, "r": 16}))
    (folder / "adapter_model.safetensors").write_bytes((inputs.adapter / "adapter_model.safetensors").read_bytes())
    write_manifest(folder, {"stage": "train"})
    with pytest.raises(ArtifactError, match="does not fit the base model"):
        dataclasses.replace(inputs, adapter=folder).run()


def test_no_held_out_prompt_is_refused(tmp_path):
    write_text(tmp_path / "prompts.jsonl", "")
    write_manifest(tmp_path, {"stage": "encode"})
    with pytest.raises(DataError, match="no held-out prompt"):
        read_prompts(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"temperature": -0.1}, "respond.temperature"),
        ({"top_p": 1.5}, "respond.top_p"),
        ({"max_prompts": 0}, "respond.max_prompts"),
        ({"batch_tokens": 0}, "respond.batch_tokens"),
        ({"top_k": 0}, "respond.top_k"),
        ({"repetition_penalty": 0.0}, "respond.repetition_penalty"),
        ({"stop": ("",)}, "respond.stop"),
        ({"server": ServerConfig("", "a", "b")}, "respond.server.base_url"),
        ({"temperature": 0.0, "samples_per_prompt": 2}, "respond.samples_per_prompt"),
    ],
)
def test_wrong_settings_are_refused_by_name(change, told):
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(CONFIG, **change)


def test_the_shipped_settings_load():
    path = next(path for path in (ROOT / "params.yaml", ROOT / "params.d" / "respond.yaml") if path.is_file())
    assert load_section(path, "respond", RespondConfig).samples_per_prompt >= 1


def write_set(folder: Path, *rows: dict[str, Any]) -> dict[str, str]:
    write_text(folder / "mine.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return {"mine": str(folder / "mine.jsonl")}


def test_prompts_of_a_set_are_answered_beside_the_held_out_ones_and_change_none_of_them(inputs, finished, tmp_path):
    sets = write_set(tmp_path, {"prompt": "Ben had a red ball", "gold": "He lost it."}, {"prompt": "Anna sat down"})
    metrics = inputs.run(dataclasses.replace(CONFIG, prompt_sets=sets))
    added = [json.loads(line) for line in (inputs.out / "added_prompts.jsonl").read_text().splitlines()]
    assert [(row["set"], row["slice"], row["question"], row.get("gold_chosen")) for row in added] == [
        ("mine", "mine", "Ben had a red ball", "He lost it."),
        ("mine", "mine", "Anna sat down", None),
    ]
    assert metrics["prompts"] == 7
    ids = {row["prompt_id"] for row in added}
    assert [row for row in inputs.rows() if row["prompt_id"] not in ids] == finished.rows()
    assert len([row for row in inputs.rows() if row["prompt_id"] in ids]) == 2 * 3
    assert "prompt_sets" in read_manifest(inputs.out, "respond")["inputs"]


def test_without_prompt_sets_nothing_is_written_of_them(finished):
    assert sorted(path.name for path in finished.out.iterdir()) == ["manifest.json", "metrics.json", "responses.jsonl"]


def test_stop_strings_end_answers_and_are_told(inputs, caplog):
    caplog.set_level("INFO")
    inputs.run(dataclasses.replace(CONFIG, temperature=0.0, stop=(" was", "big dog")))
    rows = inputs.rows()
    assert not [row for row in rows if " was" in row["text"] or "big dog" in row["text"]]
    assert "and at the texts ' was', 'big dog'" in caplog.text
    whole = dataclasses.replace(inputs, out=inputs.out.parent / "whole")
    whole.run(dataclasses.replace(CONFIG, temperature=0.0))
    cut = [(row, long) for row, long in zip(rows, whole.rows(), strict=True) if row != long]
    assert cut
    assert all(long["text"].startswith(row["text"]) and row["finish"] == "stop" for row, long in cut)
    assert all(row["n_tokens"] < long["n_tokens"] for row, long in cut)


def test_the_bases_own_generation_settings_are_offered(caplog):
    caplog.set_level("INFO")
    own = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.0, "max_length": 20}
    tell_of_sampling(CONFIG, own, ["</s>", "<|end|>"], ("\n\nHuman:",))
    first, second = (record.getMessage() for record in caplog.records)
    assert first == r"answers end at '</s>', '<|end|>', and at the texts '\n\nHuman:'"
    assert second == (
        "the base's generation_config.json has temperature: 0.6, top_k: 20: write that under `respond` to answer so"
    )


def test_marks_of_a_plain_transcript_stop_answers_by_default(pinned):
    tokenizer = BaseModel.open(pinned).load_tokenizer()
    assert turn_marks(tokenizer, EncodeConfig(chat_template="plain")) == ("\n\nAssistant:", "\n\nHuman:")
    assert turn_marks(tokenizer, EncodeConfig()) == ()


def test_a_set_with_the_name_of_a_slice_is_refused(inputs, tokens, tmp_path):
    copied = tmp_path / "tokens"
    shutil.copytree(tokens, copied)
    lines = [json.loads(line) for line in (copied / "prompts.jsonl").read_text().splitlines()]
    write_text(copied / "prompts.jsonl", "".join(json.dumps({**row, "slice": "mine"}) + "\n" for row in lines))
    write_manifest(copied, {"stage": "encode"})
    sets = write_set(tmp_path, {"prompt": "Ben had a red ball"})
    with pytest.raises(ConfigError, match=r"`respond.prompt_sets` is .* — mine is a slice of the held-out prompts"):
        dataclasses.replace(inputs, tokens=copied).run(dataclasses.replace(CONFIG, prompt_sets=sets))
