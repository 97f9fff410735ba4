"""Schemas of two answers and a vote: which values mean the first, the second, a tie."""

from __future__ import annotations

import json
from typing import Any

from tests.pairs.schemas.schema import Expected, Item, Schema, asked, assistant, no_tie, talk, user


def votes(first: str, second: str, winner: str, **names: str) -> dict[str, Any]:
    """The line of params that names two answers and the vote, and further columns."""
    return {"columns": {"first": first, "second": second, "winner": winner, **names}}


def _instruction(x: Item) -> Expected:
    return Expected([("user", f"Answer the question.\n{x.ask}")], x.good, x.bad)


def _arena(x: Item, winner: str, **more: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{x.i}",
        "model_a": "small",
        "model_b": "large",
        "winner": winner,
        "conversation_a": talk(x, x.first),
        "conversation_b": talk(x, x.second),
        "turn": 1,
        **more,
    }


def _parts(turns: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [
        {"role": turn["role"], "content": [{"type": "text", "text": turn["content"], "image": None, "mimeType": None}]}
        for turn in turns
    ]


SCHEMAS = [
    Schema(
        "PKU SafeRLHF",
        "PKU-Alignment/PKU-SafeRLHF",
        lambda x: {
            "prompt": x.ask,
            "prompt_source": "made",
            "response_0": x.first,
            "response_1": x.second,
            "is_response_0_safe": True,
            "is_response_1_safe": True,
            "better_response_id": x.vote(0, 1),
            "safer_response_id": 0,
            "response_0_sha256": "0",
            "response_1_sha256": "1",
        },
    ),
    Schema(
        "HelpSteer 3",
        "nvidia/HelpSteer3",
        lambda x: {
            "domain": "general",
            "language": "english",
            "context": [user("Hello."), assistant("Good day."), user(x.ask)],
            "response1": x.first,
            "response2": x.second,
            "overall_preference": x.vote(-2, 2, 0),
            "individual_preference": [{"score": 1, "reasoning": "r", "feedback1": "f", "feedback2": "f"}],
        },
        lambda x: (
            None
            if x.is_tie
            else Expected([("user", "Hello."), ("assistant", "Good day."), ("user", x.ask)], x.good, x.bad)
        ),
    ),
    Schema(
        "HelpSteer 2 preference",
        "nvidia/HelpSteer2, preference",
        lambda x: {
            "split": "train",
            "prompt": x.ask,
            "response_1": x.first,
            "response_2": x.second,
            "preference_strength": x.vote(-3, 3, 0),
            "preference_statement": "One is better.",
            "preference_elaboration": "It says more.",
        },
        no_tie,
    ),
    Schema(
        "Arena 55k",
        "lmarena-ai/arena-human-preference-55k",
        lambda x: {
            "id": str(x.i),
            "model_a": "small",
            "model_b": "large",
            "prompt": json.dumps([x.ask]),
            "response_a": json.dumps([x.first]),
            "response_b": json.dumps([x.second]),
            "winner_model_a": x.vote(1, 0, 0),
            "winner_model_b": x.vote(0, 1, 0),
            "winner_tie": int(x.is_tie),
        },
        no_tie,
        file="train.csv",
    ),
    Schema(
        "Arena 100k",
        "lmarena-ai/arena-human-preference-100k",
        lambda x: _arena(
            x,
            x.vote("model_a", "model_b", "tie (bothbad)"),
            judge="arena",
            language="English",
            tstamp=1.7e9,
            conv_metadata={},
        ),
        no_tie,
    ),
    Schema(
        "Arena 140k",
        "lmarena-ai/arena-human-preference-140k",
        lambda x: {
            **_arena(x, x.vote("model_a", "model_b", "both_bad"), evaluation_order=1, language="en", is_code=False),
            "conversation_a": _parts(talk(x, x.first)),
            "conversation_b": _parts(talk(x, x.second)),
        },
        no_tie,
    ),
    Schema(
        "Chatbot Arena conversations",
        "lmsys/chatbot_arena_conversations",
        lambda x: _arena(
            x, x.vote("model_a", "model_b", "tie"), judge="arena_user", anony=True, language="English", tstamp=1.7e9
        ),
        no_tie,
    ),
    Schema(
        "MT-Bench human judgments",
        "lmsys/mt_bench_human_judgments",
        lambda x: _arena(x, x.vote("model_a", "model_b", "tie"), judge="expert_1"),
        no_tie,
    ),
    Schema(
        "LLMBar",
        "princeton-nlp/LLMBar",
        lambda x: {"input": x.ask, "output_1": x.first, "output_2": x.second, "label": x.vote(1, 2)},
    ),
    Schema(
        "LLMBar by a column map alone",
        "princeton-nlp/LLMBar",
        lambda x: {"input": x.ask, "output_1": x.first, "output_2": x.second, "label": x.vote(1, 2)},
        asked,
        {"columns": {"prompt": "input", "chosen": "output_1", "rejected": "output_2"}},
        refused="label",
        why="the vote decides which answer is the better one: a map that leaves it unread is refused",
    ),
    Schema(
        "OffsetBias",
        "NCSOFT/offsetbias",
        lambda x: {
            "instruction": x.ask,
            "output_1": x.first,
            "output_2": x.second,
            "label": x.vote(1, 2),
            "bias": "length",
        },
    ),
    Schema(
        "AlpacaFarm",
        "tatsu-lab/alpaca_farm",
        lambda x: {
            "instruction": "Answer the question.",
            "input": x.ask,
            "output_1": x.first,
            "output_2": x.second,
            "preference": x.vote(1, 2),
        },
        _instruction,
        file="preference.json",
    ),
    Schema(
        "SHP",
        "stanfordnlp/SHP",
        lambda x: {
            "post_id": f"p{x.i}",
            "domain": "askbaking_train",
            "upvote_ratio": 0.9,
            "history": x.ask,
            "c_root_id_A": "a",
            "c_root_id_B": "b",
            "score_A": x.vote(30, 5),
            "score_B": x.vote(5, 30),
            "human_ref_A": x.first,
            "human_ref_B": x.second,
            "labels": x.vote(1, 0),
            "seconds_difference": 10.0,
            "score_ratio": 6.0,
        },
    ),
    Schema(
        "WebGPT comparisons",
        "openai/webgpt_comparisons",
        lambda x: {
            "question": {"dataset": "made", "id": f"w{x.i}", "full_text": x.ask},
            "quotes_0": {"title": ["Bread"], "extract": ["Yeast makes gas."]},
            "tokens_0": {"prefix": [1, 2], "completion": [3]},
            "answer_0": x.first,
            "score_0": x.vote(1.0, -1.0, 0.0),
            "quotes_1": {"title": [], "extract": []},
            "tokens_1": {"prefix": [1, 2], "completion": [4]},
            "answer_1": x.second,
            "score_1": x.vote(-1.0, 1.0, 0.0),
        },
        no_tie,
    ),
    Schema(
        "Summaries from feedback",
        "openai/summarize_from_feedback",
        lambda x: {
            "info": {"id": f"s{x.i}", "post": x.ask, "title": "A title", "subreddit": "made"},
            "summaries": [
                {"text": x.first, "policy": "a", "note": None},
                {"text": x.second, "policy": "b", "note": None},
            ],
            "choice": x.vote(0, 1),
            "worker": "w",
            "batch": "b",
            "split": "train",
            "extra": {"confidence": 7},
        },
    ),
    Schema(
        "Preference Collection",
        "prometheus-eval/Preference-Collection",
        lambda x: {
            "orig_criteria": "Is it true?",
            "orig_preference": x.vote("A", "B"),
            "orig_instruction": x.ask,
            "orig_response_A": x.first,
            "orig_response_B": x.second,
            "orig_reference_answer": x.good,
        },
        params=votes("orig_response_A", "orig_response_B", "orig_preference", prompt="orig_instruction"),
    ),
    Schema(
        "A table of votes",
        "spreadsheets: two answers and a winner",
        lambda x: {
            "question": x.ask,
            "left": x.first,
            "right": x.second,
            "verdict": x.vote("left wins", "right wins", "equal"),
        },
        no_tie,
        {
            **votes("left", "right", "verdict"),
            "votes": {"first": ["left wins"], "second": ["right wins"]},
        },
        file="votes.csv",
    ),
    Schema(
        "Label Studio pairwise",
        "Label Studio, JSON export",
        lambda x: {
            "id": x.i,
            "annotations": [
                {
                    "id": 1,
                    "result": [
                        {
                            "id": "x",
                            "type": "pairwise",
                            "value": {"selected": x.vote("left", "right")},
                            "from_name": "pw",
                            "to_name": "answer1,answer2",
                        }
                    ],
                    "was_cancelled": False,
                }
            ],
            "data": {"prompt": x.ask, "answer1": x.first, "answer2": x.second},
        },
        file="export.json",
    ),
]
