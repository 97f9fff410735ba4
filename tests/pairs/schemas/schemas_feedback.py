"""Schemas of single answers with a thumb or a label, and data that hold no pairs."""

from __future__ import annotations

from typing import Any

from tests.pairs.schemas.schema import Item, Schema, assistant, user


def _thumb(x: Item, reply: str, rating: int) -> dict[str, Any]:
    """One thumb of Open WebUI's export."""
    message = f"m{x.i}{'+' if rating > 0 else '-'}"
    turns = {
        "q": {"id": "q", "role": "user", "content": x.ask, "parentId": None, "childrenIds": [message]},
        message: {
            "id": message,
            "parentId": "q",
            "role": "assistant",
            "content": reply,
            "childrenIds": [],
            "annotation": {"rating": rating},
        },
    }
    return {
        "id": f"f{message}",
        "user_id": "u",
        "version": 0,
        "type": "rating",
        "data": {"rating": rating, "model_id": "m", "sibling_model_ids": None, "reason": "", "comment": ""},
        "meta": {"arena": False, "chat_id": f"c{x.i}", "message_id": message, "message_index": 1, "model_id": "m"},
        "snapshot": {"chat": {"id": f"c{x.i}", "chat": {"history": {"messages": turns, "currentId": message}}}},
        "created_at": 1,
        "updated_at": 1,
    }


def _langsmith(x: Item, reply: str, score: int) -> dict[str, Any]:
    return {
        "id": f"r{x.i}{score}",
        "run_type": "llm",
        "inputs": {"messages": [user(x.ask)]},
        "outputs": {"choices": [{"message": assistant(reply)}]},
        "feedback_stats": {"user_score": {"n": 1, "avg": score}},
    }


def _langfuse(x: Item, reply: str, value: int) -> dict[str, Any]:
    return {
        "id": f"t{x.i}{value}",
        "name": "chat",
        "input": [user(x.ask)],
        "output": assistant(reply),
        "scores": [{"id": f"s{x.i}{value}", "name": "user-feedback", "value": value, "dataType": "NUMERIC"}],
    }


SCHEMAS = [
    Schema(
        "Open WebUI feedback",
        "Open WebUI, feedback export",
        lambda x: [_thumb(x, x.first, x.vote(1, -1)), _thumb(x, x.second, x.vote(-1, 1))],
        file="feedback.json",
    ),
    Schema(
        "LangSmith runs",
        "LangSmith, exported runs",
        lambda x: [_langsmith(x, x.first, x.vote(1, 0)), _langsmith(x, x.second, x.vote(0, 1))],
    ),
    Schema(
        "Langfuse traces",
        "Langfuse, exported traces with scores",
        lambda x: [_langfuse(x, x.first, x.vote(1, 0)), _langfuse(x, x.second, x.vote(0, 1))],
    ),
    Schema(
        "TRL unpaired",
        "trl-lib/kto-mix-14k",
        lambda x: [
            {"prompt": [user(x.ask)], "completion": [assistant(x.first)], "label": x.vote(True, False)},
            {"prompt": [user(x.ask)], "completion": [assistant(x.second)], "label": x.vote(False, True)},
        ],
        why="two opposite labels on one prompt are a pair",
    ),
    Schema(
        "LLaMA-Factory KTO",
        "LLaMA-Factory: kto_tag",
        lambda x: [
            {"messages": [user(x.ask), assistant(x.first)], "label": x.vote(True, False)},
            {"messages": [user(x.ask), assistant(x.second)], "label": x.vote(False, True)},
        ],
        file="kto.json",
    ),
    Schema(
        "Argilla records",
        "Argilla, exported records",
        lambda x: {
            "id": str(x.i),
            "fields": {"prompt": x.ask, "response1": x.first, "response2": x.second},
            "responses": {"preference": [{"value": x.vote("response1", "response2"), "user_id": "u"}]},
            "status": "completed",
        },
        file="records.json",
    ),
    Schema(
        "BeaverTails",
        "PKU-Alignment/BeaverTails",
        lambda x: {"prompt": x.ask, "response": x.good, "category": {"animal_abuse": False}, "is_safe": True},
        refused="no column `chosen`",
        why="single answers with a judgement of safety are no pairs",
    ),
    Schema(
        "OpenAssistant messages",
        "OpenAssistant/oasst1",
        lambda x: [
            {"message_id": f"q{x.i}", "parent_id": None, "text": x.ask, "role": "prompter", "rank": None},
            {"message_id": f"a{x.i}", "parent_id": f"q{x.i}", "text": x.good, "role": "assistant", "rank": 0},
            {"message_id": f"b{x.i}", "parent_id": f"q{x.i}", "text": x.bad, "role": "assistant", "rank": 1},
        ],
        refused="no column `chosen`",
        why="trees of messages: make a list of ranked answers of each question first",
    ),
    Schema(
        "Alpaca instructions",
        "tatsu-lab/alpaca",
        lambda x: {"instruction": x.ask, "input": "", "output": x.good},
        refused="no column `chosen`",
        why="one answer a question: there is nothing to compare",
    ),
]
