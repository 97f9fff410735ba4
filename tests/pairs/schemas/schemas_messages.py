"""Schemas whose prompt or replies are lists of messages."""

from __future__ import annotations

from typing import Any

from tests.pairs.schemas.schema import (
    Expected,
    Item,
    Schema,
    asked_with_system,
    assistant,
    columns,
    system,
    talk,
    user,
)

_LOOK_UP = [
    {
        "type": "function",
        "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"what": {"type": "string"}}}},
    }
]


def _turn(by: str, text: str) -> dict[str, str]:
    """A turn as ShareGPT writes it."""
    return {"from": by, "value": text}


def _parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _input_row(x: Item, **more: Any) -> dict[str, Any]:
    """A row of OpenAI's preference file, which others read, too."""
    return {
        "input": {"messages": [system(x.system), user(x.ask)], **more},
        "preferred_output": [assistant(x.good)],
        "non_preferred_output": [assistant(x.bad)],
    }


def _of_completions(x: Item) -> Expected:
    return Expected([("system", x.system), ("user", x.ask)], x.good, x.bad)


SCHEMAS = [
    Schema(
        "TRL conversational",
        "trl: prompt, chosen, rejected as messages",
        lambda x: {"prompt": [user(x.ask)], "chosen": [assistant(x.good)], "rejected": [assistant(x.bad)]},
    ),
    Schema(
        "TRL implicit prompt",
        "trl-lib/ultrafeedback_binarized",
        lambda x: {"chosen": talk(x, x.good), "rejected": talk(x, x.bad), "score_chosen": 8.0, "score_rejected": 5.0},
    ),
    Schema(
        "TRL with tools",
        "trl: a tools column",
        lambda x: {
            "prompt": [user(x.ask)],
            "chosen": [assistant(x.good)],
            "rejected": [assistant(x.bad)],
            "tools": _LOOK_UP,
        },
    ),
    Schema(
        "UltraFeedback binarized",
        "HuggingFaceH4/ultrafeedback_binarized",
        lambda x: {
            "prompt": x.ask,
            "prompt_id": f"{x.i:064x}",
            "chosen": talk(x, x.good),
            "rejected": talk(x, x.bad),
            "messages": talk(x, x.good),
            "score_chosen": 8.5,
            "score_rejected": 3.0,
        },
    ),
    Schema(
        "DPO mix",
        "argilla/dpo-mix-7k",
        lambda x: {
            "dataset": "made",
            "chosen": talk(x, x.good),
            "chosen_rating": 5.0,
            "rejected": talk(x, x.bad),
            "rejected_rating": 2.0,
        },
    ),
    Schema(
        "Capybara DPO",
        "argilla/distilabel-capybara-dpo-7k-binarized",
        lambda x: {
            "source": "made",
            "conversation": [{"input": x.ask, "output": x.good}],
            "original_response": x.good,
            "generation_prompt": [x.ask],
            "raw_generation_responses": [x.bad],
            "new_generations": [x.bad],
            "prompt": x.ask,
            "chosen": talk(x, x.good),
            "rejected": talk(x, x.bad),
            "rating_chosen": 5,
            "rating_rejected": 1,
            "chosen_model": "large",
            "rejected_model": "small",
        },
    ),
    Schema(
        "ORPO DPO mix",
        "mlabonne/orpo-dpo-mix-40k",
        lambda x: {
            "source": "made",
            "chosen": talk(x, x.good),
            "rejected": talk(x, x.bad),
            "prompt": x.ask,
            "question": x.ask,
        },
    ),
    Schema(
        "Tulu 3 preference mixture",
        "allenai/llama-3.1-tulu-3-8b-preference-mixture",
        lambda x: {
            "id": f"t{x.i}",
            "source": "made",
            "prompt": x.ask,
            "chosen": talk(x, x.good),
            "rejected": talk(x, x.bad),
        },
    ),
    Schema(
        "Skywork reward preferences",
        "Skywork/Skywork-Reward-Preference-80K-v0.2",
        lambda x: {"chosen": talk(x, x.good), "rejected": talk(x, x.bad), "source": "made"},
    ),
    Schema(
        "Magpie DPO",
        "Magpie-Align/Magpie-Llama-3.1-Pro-DPO-100K-v0.1",
        lambda x: {
            "uuid": f"u{x.i}",
            "instruction": x.ask,
            "gen_input_configs": {"temperature": 0.9},
            "responses": [x.first, x.second],
            "rewards_armorm": [{"score": 0.2}, {"score": 0.1}],
            "chosen": talk(x, x.good),
            "rejected": talk(x, x.bad),
        },
    ),
    Schema(
        "OpenHermes preferences",
        "argilla/OpenHermesPreferences",
        lambda x: {
            "source": "made",
            "category": "c",
            "prompt": x.ask,
            "candidates_completions": [x.bad, x.good],
            "candidate_policies": ["s", "l"],
            "ranks": [2, 1],
            "rank_str": "1 > 0",
            "chosen": talk(x, x.good),
            "rejected": talk(x, x.bad),
        },
    ),
    Schema(
        "Snorkel PairRM",
        "snorkelai/Snorkel-Mistral-PairRM-DPO-Dataset",
        lambda x: {
            "prompt_id": f"s{x.i}",
            "prompt": x.ask,
            "chosen": talk(x, x.good),
            "rejected": talk(x, x.bad),
            "all_generated_responses": [x.first, x.second],
            "all_rm_scores": [0.1, 0.2],
        },
    ),
    Schema(
        "UltraInteract pair",
        "openbmb/UltraInteract_pair",
        lambda x: {
            "task": "Coding",
            "dataset": "made",
            "trajectory": [_turn("user", x.ask)],
            "id": f"i{x.i}",
            "chosen": x.good,
            "rejected": x.bad,
        },
        params=columns(prompt="trajectory"),
    ),
    Schema(
        "DPO En-Zh",
        "hiyouga/DPO-En-Zh-20k",
        lambda x: {
            "conversations": [_turn("human", x.ask)],
            "chosen": _turn("gpt", x.good),
            "rejected": _turn("gpt", x.bad),
        },
        file="dpo.json",
    ),
    Schema(
        "LLaMA-Factory ranking, sharegpt",
        "LLaMA-Factory",
        lambda x: {
            "conversations": [_turn("human", x.ask)],
            "chosen": _turn("gpt", x.good),
            "rejected": _turn("gpt", x.bad),
            "system": x.system,
            "tools": "",
        },
        asked_with_system,
        file="ranking.json",
    ),
    Schema(
        "ms-swift",
        "ms-swift: messages and rejected_response",
        lambda x: {
            "messages": [system(x.system), user(x.ask), assistant(x.good)],
            "rejected_response": x.bad,
        },
        asked_with_system,
    ),
    Schema(
        "Axolotl chat_template",
        "axolotl",
        lambda x: {"messages": [user(x.ask)], "chosen": assistant(x.good), "rejected": assistant(x.bad)},
    ),
    Schema(
        "Messages and another reply",
        "exports of chat logs: messages and rejected",
        lambda x: {"messages": [user(x.ask), assistant(x.good)], "rejected": x.bad},
    ),
    Schema(
        "OpenAI preference file",
        "OpenAI fine-tuning, DPO",
        lambda x: _input_row(x, tools=[], parallel_tool_calls=True),
        asked_with_system,
    ),
    Schema("Together preference file", "Together AI fine-tuning", _input_row, asked_with_system),
    Schema(
        "Fireworks preference file", "Fireworks AI fine-tuning", lambda x: _input_row(x, tools=[]), asked_with_system
    ),
    Schema(
        "Vertex AI preference file",
        "Vertex AI, Gemini preference tuning",
        lambda x: {
            "system_instruction": {"parts": [{"text": x.system}]},
            "contents": [{"role": "user", "parts": [{"text": x.ask}]}],
            "completions": [
                {"score": x.vote(1, 0), "completion": {"role": "model", "parts": [{"text": x.first}]}},
                {"score": x.vote(0, 1), "completion": {"role": "model", "parts": [{"text": x.second}]}},
            ],
        },
        asked_with_system,
    ),
    Schema(
        "Bedrock preference file",
        "Amazon Bedrock, preference tuning",
        lambda x: {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": x.system}],
            "messages": [
                {"role": "user", "content": [{"text": x.ask}]},
                {
                    "role": "assistant",
                    "candidates": [
                        {"content": [{"text": x.first}], "preferenceLabel": x.vote("preferred", "non-preferred")},
                        {"content": [{"text": x.second}], "preferenceLabel": x.vote("non-preferred", "preferred")},
                    ],
                },
            ],
        },
        asked_with_system,
    ),
    Schema(
        "NeMo RL preference file",
        "nemo-rl: context and completions",
        lambda x: {
            "context": [system(x.system), user(x.ask)],
            "completions": [
                {"rank": x.vote(0, 1), "completion": [assistant(x.first)]},
                {"rank": x.vote(1, 0), "completion": [assistant(x.second)]},
            ],
        },
        _of_completions,
    ),
    Schema(
        "Content parts",
        "OpenAI API logs",
        lambda x: {
            "prompt": [{"role": "user", "content": _parts(x.ask)}],
            "chosen": [{"role": "assistant", "content": _parts(x.good)}],
            "rejected": [{"role": "assistant", "content": _parts(x.bad)}],
        },
    ),
    Schema(
        "Picture parts",
        "OpenAI API logs with pictures",
        lambda x: {
            "prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.jpg"}}]}],
            "chosen": [assistant(x.good)],
            "rejected": [assistant(x.bad)],
        },
        refused="image_url",
        why="pictures are not read",
    ),
    Schema(
        "Capitalised roles",
        "User and Assistant for user and assistant",
        lambda x: {
            "prompt": [{"role": "User", "content": x.ask}],
            "chosen": [{"role": "Assistant", "content": x.good}],
            "rejected": [{"role": "Assistant", "content": x.bad}],
        },
    ),
]
