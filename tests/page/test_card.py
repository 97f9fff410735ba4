from __future__ import annotations

import dataclasses

import pytest
from huggingface_hub import ModelCard

from tasks.page.card import model_card
from tasks.page.facts import Facts
from tasks.page.measured import Rate
from tasks.page.snippet import loading_snippet
from tasks.report import collect
from tests.page.samples import PARAMS, distrusted, make_folders


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> Facts:
    return collect(make_folders(tmp_path_factory.mktemp("card"), prompts=40, pairs=64), PARAMS)


def _hub(facts: Facts) -> Facts:
    base = dataclasses.replace(facts.base, kind="hub", source="Qwen/Qwen2.5-3B", revision="3a" * 20)
    return dataclasses.replace(facts, base=base)


def test_the_hub_reads_the_metadata_and_the_win_rate_from_the_card(facts):
    data = ModelCard(model_card(_hub(facts), "Better replies", "apache-2.0"), ignore_metadata_errors=False).data
    assert (data.base_model, data.library_name, data.license) == ("Qwen/Qwen2.5-3B", "peft", "apache-2.0")
    assert {"dpo", "lora", "preference-optimization"} <= set(data.tags)
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["win_rate"] == pytest.approx(facts.evidence.rate.value, abs=1e-6)
    assert set(results) == {"win_rate", "win_rate_lower_bound", "win_rate_length_controlled", "preference_accuracy"}


def test_a_win_rate_beside_a_failed_guard_is_in_no_metadata_and_the_first_sentence_says_so(tmp_path):
    spoiled = collect(make_folders(tmp_path, prompts=40, pairs=64, winrate=distrusted), PARAMS)
    text = model_card(_hub(spoiled), "Better replies", None)
    results = {result.metric_type: result for result in ModelCard(text, ignore_metadata_errors=False).data.eval_results}
    assert set(results) == {"failed_guards", "preference_accuracy"}
    assert results["failed_guards"].metric_value == 1
    assert results["failed_guards"].metric_name == (
        "Not to be believed: guards of the win rate failed (judge_agreement)"
    )
    body = text.split("---\n", 2)[2].split("\n\n")
    assert body[1].startswith("Not to be believed: the guard judge_agreement failed.")
    assert "beats" not in text
    assert "| Guard failed | `judge_agreement`: judge agrees with labels: lower bound |" in text


def test_the_card_tells_how_far_the_adapter_has_moved_from_its_base(facts):
    assert "| KL to the base, nats per answer | 12.34 ± 0.56 |" in model_card(facts, "x", None)


def test_the_card_names_the_judge_and_its_papers(facts):
    text = model_card(facts, "x", None).replace("\u00a0", " ")
    for row in (
        "| Kind | openai (small-judge) |",
        "| Fingerprint | `5a5a5a5a5a5a` |",
        "| Agreement with labels | 80.0 % (75.0–85.0 %) on 180 decided pairs |",
        "| Cohen's κ | 0.60 (0.50 to 0.70) |",
        "| First-position share | 52.0 % (47.0–57.0 %) |",
        "| Ties, invalid | 17, 3 of 200 labelled pairs |",
    ):
        assert row in text, row


def test_a_base_that_is_no_hub_id_stays_out_of_the_metadata_and_stands_in_the_text(facts):
    local = dataclasses.replace(facts, base=dataclasses.replace(facts.base, kind="local", source="/models/stories260K"))
    text = model_card(local, "Better replies", None)
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert data.base_model is None
    assert data.license is None
    assert "a local folder named stories260K" in text
    assert "/models" not in text


def test_a_demo_is_tagged_as_one(facts):
    assert "demo" in ModelCard(model_card(facts, "x", None)).data.tags
    assert "demo" not in ModelCard(model_card(_hub(facts), "x", None)).data.tags


def test_data_sets_of_the_hub_are_named(facts):
    lineage = dataclasses.replace(facts.lineage, datasets=("HumanLLMs/Human-Like-DPO-Dataset",))
    data = ModelCard(model_card(dataclasses.replace(facts, lineage=lineage), "x", None)).data
    assert data.datasets == ["HumanLLMs/Human-Like-DPO-Dataset"]


def test_no_length_controlled_rate_leaves_no_metric_of_it(facts):
    evidence = dataclasses.replace(facts.evidence, length_controlled=None, length_refusal="too one-sided")
    text = model_card(dataclasses.replace(facts, evidence=evidence), "x", None)
    assert "win_rate_length_controlled" not in text
    assert "| Length-controlled win rate | not computed |" in text


def test_the_snippet_loads_the_pinned_base_and_is_python(facts):
    text = model_card(_hub(facts), "x", None)
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "snippet", "exec")
    assert f'from_pretrained("Qwen/Qwen2.5-3B", revision="{"3a" * 20}")' in code


def test_the_snippet_of_a_quantised_base_holds_it_in_four_bits_too(facts):
    base = dataclasses.replace(_hub(facts).base, quantise="nf4")
    code = loading_snippet(base)
    compile(code, "snippet", "exec")
    assert 'bnb_4bit_quant_type="nf4"' in code
    assert f'revision="{"3a" * 20}", quantization_config=four_bits)' in code


def test_a_hostile_title_changes_neither_metadata_nor_markup(facts):
    text = model_card(facts, "x\n---\nlicense: stolen <script>[a](http://b)", None)
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert data.license is None
    assert "<script>" not in text.split("---\n", 2)[2]
    assert "](http://b)" not in text.split("---\n", 2)[2].replace("\\]", "")


def test_a_champion_that_was_met_stands_beside_the_base(facts):
    met = dataclasses.replace(facts.evidence, champion=Rate(0.4975, 0.4926, 0.5024), champion_digest="66805e367a53" * 5)
    assert "| Win rate against version 66805e367a53 | 49.8" in model_card(
        dataclasses.replace(facts, evidence=met), "x", None
    )
    assert "against version" not in model_card(facts, "x", None)
