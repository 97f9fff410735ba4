"""Schemas whose prompt and replies are texts in columns of their own."""

from __future__ import annotations

import json

from tests.pairs.schemas.schema import Expected, Item, Schema, asked_with_system, columns, ignore


def _instruction(x: Item) -> Expected:
    return Expected([("user", f"Answer the question.\n{x.ask}")], x.good, x.bad)


def _with_history(x: Item) -> Expected:
    turns = [("system", x.system), ("user", "Hello."), ("assistant", "Good day."), ("user", x.ask)]
    return Expected(turns, x.good, x.bad)


def _transcript(x: Item, reply: str) -> str:
    return f"\n\nHuman: Hello.\n\nAssistant: Good day.\n\nHuman: {x.ask}\n\nAssistant: {reply}"


def _after_greeting(x: Item) -> Expected:
    return Expected([("user", "Hello."), ("assistant", "Good day."), ("user", x.ask)], x.good, x.bad)


SCHEMAS = [
    Schema(
        "TRL standard",
        "trl: prompt, chosen, rejected as text",
        lambda x: {"prompt": x.ask, "chosen": x.good, "rejected": x.bad},
    ),
    Schema(
        "HH-RLHF",
        "Anthropic/hh-rlhf",
        lambda x: {"chosen": _transcript(x, x.good), "rejected": _transcript(x, x.bad)},
        _after_greeting,
    ),
    Schema(
        "Orca DPO pairs",
        "Intel/orca_dpo_pairs",
        lambda x: {"system": x.system, "question": x.ask, "chosen": x.good, "rejected": x.bad},
        asked_with_system,
    ),
    Schema(
        "Truthy DPO",
        "jondurbin/truthy-dpo-v0.1",
        lambda x: {
            "id": f"{x.i:032x}",
            "source": "made",
            "system": x.system,
            "prompt": x.ask,
            "chosen": x.good,
            "rejected": x.bad,
        },
        asked_with_system,
    ),
    Schema(
        "Py DPO",
        "jondurbin/py-dpo-v0.1",
        lambda x: {"prompt": x.ask, "chosen": x.good, "rejected": x.bad, "id": f"p{x.i}"},
    ),
    Schema(
        "Gutenberg DPO",
        "jondurbin/gutenberg-dpo-v0.1",
        lambda x: {
            "prompt": x.ask,
            "chosen": x.good,
            "rejected": x.bad,
            "rejected_model": "small",
            "chosen_model": "human",
        },
    ),
    Schema(
        "UltraFeedback binarized (Argilla)",
        "argilla/ultrafeedback-binarized-preferences",
        lambda x: {
            "source": "made",
            "instruction": x.ask,
            "chosen_response": x.good,
            "rejected_response": x.bad,
            "chosen_avg_rating": 4.5,
            "rejected_avg_rating": 2.0,
            "chosen_model": "large",
        },
        params=columns(prompt="instruction", chosen="chosen_response", rejected="rejected_response"),
    ),
    Schema(
        "distilabel Orca pairs",
        "argilla/distilabel-intel-orca-dpo-pairs",
        lambda x: {
            "system": x.system,
            "input": x.ask,
            "chosen": x.good,
            "rejected": x.bad,
            "generations": [x.first, x.second],
            "order": ["chosen", "rejected"],
            "labelling_model": "judge",
            "rating": [9.0, 4.0],
            "rationale": "First.",
            "status": "unchanged",
            "original_chosen": x.good,
            "original_rejected": x.bad,
            "chosen_score": 9.0,
            "in_gsm8k_train": False,
        },
        asked_with_system,
        columns(prompt="input"),
    ),
    Schema(
        "RewardBench",
        "allenai/reward-bench",
        lambda x: {
            "prompt": x.ask,
            "chosen": x.good,
            "chosen_model": "large",
            "rejected": x.bad,
            "rejected_model": "small",
            "subset": "alpacaeval-easy",
            "id": x.i,
        },
    ),
    Schema(
        "Math Step-DPO",
        "xinlai/Math-Step-DPO-10K",
        lambda x: {
            "dataset": "made",
            "prompt": x.ask,
            "initial_reason_steps": "Step 1: read. Step 2:",
            "chosen": " think.",
            "rejected": " guess.",
            "full_chosen": x.good,
            "full_rejected": x.bad,
            "answer": "42",
        },
        params=columns(chosen="full_chosen", rejected="full_rejected"),
        why="whole solutions; `chosen` and `rejected` continue `initial_reason_steps`",
    ),
    Schema(
        "Code Preference Pairs",
        "Vezora/Code-Preference-Pairs",
        lambda x: {"ID": x.i, "input": x.ask, "accepted": x.good, "rejected": x.bad},
        params=columns(prompt="input", chosen="accepted"),
    ),
    Schema(
        "Stack Exchange paired",
        "lvwerra/stack-exchange-paired",
        lambda x: {
            "qid": x.i,
            "question": x.ask,
            "date": "2020/01/01",
            "metadata": ["https://a.example"],
            "response_j": x.good,
            "response_k": x.bad,
        },
        params=columns(prompt="question", chosen="response_j", rejected="response_k"),
    ),
    Schema(
        "Zhihu RLHF",
        "liyucheng/zhihu_rlhf_3k",
        lambda x: {"prompt": x.ask, "chosen": x.good, "rejected": x.bad},
        file="zhihu.csv",
    ),
    Schema(
        "CValues comparison",
        "damo/CValues-Comparison",
        lambda x: {
            "prompt": x.ask,
            "pos_resp": x.good,
            "neg_resp": x.bad,
            "pos_type": "拒绝为主",
            "neg_type": "风险回复",
        },
        params=columns(chosen="pos_resp", rejected="neg_resp"),
    ),
    Schema(
        "Chinese column names",
        "spreadsheets in Chinese",
        lambda x: {"问题": x.ask, "好的回答": x.good, "差的回答": x.bad},
        params=columns(prompt="问题", chosen="好的回答", rejected="差的回答"),
        file="rows.csv",
    ),
    Schema(
        "LLaMA-Factory ranking, alpaca",
        "LLaMA-Factory",
        lambda x: {"instruction": "Answer the question.", "input": x.ask, "chosen": x.good, "rejected": x.bad},
        _instruction,
        file="ranking.json",
    ),
    Schema(
        "LLaMA-Factory ranking, alpaca with system and history",
        "LLaMA-Factory",
        lambda x: {
            "instruction": x.ask,
            "input": "",
            "chosen": x.good,
            "rejected": x.bad,
            "system": x.system,
            "history": [["Hello.", "Good day."]],
        },
        _with_history,
        file="ranking.json",
    ),
    Schema(
        "Axolotl chatml.intel",
        "axolotl",
        lambda x: {"system": x.system, "question": x.ask, "chosen": x.good, "rejected": x.bad},
        asked_with_system,
    ),
    Schema(
        "Axolotl llama3.argilla",
        "axolotl",
        lambda x: {
            "system": x.system,
            "instruction": x.ask,
            "chosen_response": x.good,
            "rejected_response": x.bad,
        },
        asked_with_system,
        columns(prompt="instruction", chosen="chosen_response", rejected="rejected_response"),
    ),
    Schema(
        "NeMo RL, texts",
        "nemo-rl: DPODataset",
        lambda x: {"prompt": x.ask, "chosen_response": x.good, "rejected_response": x.bad},
        params=columns(chosen="chosen_response", rejected="rejected_response"),
    ),
    Schema(
        "JSON text in CSV cells",
        "Dataset.to_csv of messages",
        lambda x: {
            "prompt": x.ask,
            "chosen": json.dumps([{"role": "user", "content": x.ask}, {"role": "assistant", "content": x.good}]),
            "rejected": json.dumps([{"role": "user", "content": x.ask}, {"role": "assistant", "content": x.bad}]),
        },
        file="export.csv",
    ),
    Schema(
        "Python notation in CSV cells",
        "DataFrame.to_csv of messages",
        lambda x: {
            "prompt": x.ask,
            "chosen": str([{"content": x.ask, "role": "user"}, {"content": x.good, "role": "assistant"}]),
            "rejected": str([{"content": x.ask, "role": "user"}, {"content": x.bad, "role": "assistant"}]),
        },
        file="export.csv",
    ),
    Schema(
        "Columns of an object",
        "DataFrame.to_json without orient",
        lambda x: {"prompt": x.ask, "chosen": x.good, "rejected": x.bad},
        file="columns.json",
    ),
    Schema(
        "Preferred and non-preferred",
        "files of tuning services",
        lambda x: {"prompt": x.ask, "preferred": x.good, "non_preferred": x.bad},
    ),
    Schema(
        "Texts in quotes",
        "json.dumps of each text",
        lambda x: {"prompt": json.dumps(x.ask), "chosen": json.dumps(x.good), "rejected": json.dumps(x.bad)},
    ),
    Schema(
        "Replies that begin with the prompt",
        "reward-model training files",
        lambda x: {"prompt": x.ask, "chosen": f"{x.ask} {x.good}", "rejected": f"{x.ask} {x.bad}"},
        lambda x: Expected([("user", x.ask)], f" {x.good}", f" {x.bad}"),
        why="the prompt is taken off; the space behind it stays, for plain text goes on with it",
    ),
    Schema(
        "Weights and margins",
        "trl: a margin column",
        lambda x: {"prompt": x.ask, "chosen": x.good, "rejected": x.bad, "margin": 1.5},
        lambda x: Expected([("user", x.ask)], x.good, x.bad, 1.5),
    ),
    Schema(
        "RLAIF-V",
        "openbmb/RLAIF-V-Dataset",
        lambda x: {
            "ds_name": "made",
            "image": {"bytes": "aGk=", "path": "a.jpg"},
            "question": x.ask,
            "chosen": x.good,
            "rejected": x.bad,
        },
        params=columns(prompt="question"),
        refused="image",
        why="pictures are not read",
    ),
    Schema(
        "Pictures waived",
        "openbmb/RLAIF-V-Dataset, without its pictures",
        lambda x: {"image": {"path": "a.jpg"}, "question": x.ask, "chosen": x.good, "rejected": x.bad},
        params={**columns(prompt="question"), **ignore("image")},
    ),
]
