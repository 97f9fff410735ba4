"""Schemas of ranked or scored lists, and of several rows a prompt."""

from __future__ import annotations

from typing import Any

from tests.pairs.schemas.schema import Expected, Item, Schema, assistant, user


def ranked(**names: Any) -> dict[str, Any]:
    """The line of params that names where answers and their scores or ranks stand."""
    return {"columns": names}


def _three(x: Item) -> list[tuple[str, float]]:
    """Three answers with a score each; the best stands at another place from item to item."""
    answers = [(x.good, 9.0), (x.mid, 6.0), (x.bad, 3.0)]
    return answers[x.i % 3 :] + answers[: x.i % 3]


def _by_six(x: Item) -> Expected:
    return Expected([("user", x.ask)], x.good, x.bad, 6.0)


def _by_six_with_system(x: Item) -> Expected:
    return Expected([("system", x.system), ("user", x.ask)], x.good, x.bad, 6.0)


SCHEMAS = [
    Schema(
        "Nectar",
        "berkeley-nest/Nectar",
        lambda x: {
            "prompt": f"\n\nHuman: {x.ask}\n\nAssistant: ",
            "answers": [
                {"answer": text, "model": "m", "rank": {9.0: 1.0, 6.0: 2.0, 3.0: 3.0}[score]}
                for text, score in _three(x)
            ],
            "turns": 1,
            "num_responses": 3,
            "source": ["made"],
            "good_natured": True,
        },
    ),
    Schema(
        "UltraFeedback",
        "openbmb/UltraFeedback",
        lambda x: {
            "source": "made",
            "instruction": x.ask,
            "models": ["a", "b", "c"],
            "completions": [
                {
                    "annotations": {"helpfulness": {"Rating": "3"}},
                    "custom_system_prompt": x.system,
                    "model": "m",
                    "principle": "helpfulness",
                    "response": text,
                    "critique": "c",
                    "overall_score": score,
                    "fine-grained_score": score / 3,
                }
                for text, score in _three(x)
            ],
            "correct_answers": [],
            "incorrect_answers": [],
        },
        _by_six_with_system,
    ),
    Schema(
        "distilabel UltraFeedback task",
        "distilabel: generations and ratings",
        lambda x: {
            "instruction": x.ask,
            "generations": [text for text, _ in _three(x)],
            "ratings": [score for _, score in _three(x)],
            "rationales": ["r", "r", "r"],
            "model_name": "judge",
        },
        _by_six,
    ),
    Schema(
        "Stack Exchange preferences",
        "HuggingFaceH4/stack-exchange-preferences",
        lambda x: {
            "qid": x.i,
            "question": x.ask,
            "answers": [
                {"answer_id": n, "author": "a", "pm_score": score, "selected": False, "text": text}
                for n, (text, score) in enumerate(_three(x))
            ],
            "date": "2020/01/01",
            "metadata": ["https://a.example"],
        },
        _by_six,
    ),
    Schema(
        "HelpSteer 2",
        "nvidia/HelpSteer2",
        lambda x: [
            {
                "prompt": x.ask,
                "response": text,
                "helpfulness": score,
                "correctness": 3,
                "coherence": 4,
                "complexity": 1,
                "verbosity": 1,
            }
            for text, score in ((x.first, x.vote(4, 1)), (x.second, x.vote(1, 4)))
        ],
        lambda x: Expected([("user", x.ask)], x.good, x.bad, 3.0),
    ),
    Schema(
        "Scored rows of a table",
        "spreadsheets: a row an answer",
        lambda x: [{"prompt": x.ask, "answer": text, "stars": int(score)} for text, score in _three(x)],
        _by_six,
        ranked(text="answer", score="stars"),
        file="answers.csv",
    ),
    Schema(
        "RewardBench 2",
        "allenai/reward-bench-2",
        lambda x: {
            "id": str(x.i),
            "prompt": x.ask,
            "chosen": [x.good],
            "rejected": [x.bad],
            "num_correct": 1,
            "num_incorrect": 1,
            "total_completions": 2,
            "models": ["large", "small"],
            "subset": "Factuality",
        },
        params={"columns": {"chosen": "chosen.0", "rejected": "rejected.0"}},
        why="the first right and the first wrong answer of each list",
    ),
    Schema(
        "Indices in paths",
        "lists with the better answer first",
        lambda x: {"task": {"turns": [user(x.ask)]}, "completions": [assistant(x.good), assistant(x.bad)]},
        params={"columns": {"prompt": "task.turns", "chosen": "completions.0", "rejected": "completions.1"}},
    ),
]
