"""Comparisons for a language model, and judging them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.judges.games.games import Comparison, Verdict
from tasks.judges.games.runners import PairRunner
from tasks.judges.llm.llm_choice import OpenAIJudge
from tasks.judges.llm.llm_judge import LlmJudge
from tasks.judges.protocol.protocol import Answer, Prompt, Turn

TALK = (Turn("system", "Be brief."), Turn("user", "A kettle leaks."), Turn("assistant", "Where?"))


def comparisons(count: int) -> list[Comparison]:
    """Comparisons of which the candidate wins two of three."""
    return [
        Comparison(
            f"p{n}",
            0,
            Prompt((*TALK, Turn("user", f"Number {n}."))),
            Answer(f"good {n}" if n % 3 else f"so so {n}"),
            Answer(f"bad {n}" if n % 3 else f"good good {n}"),
        )
        for n in range(count)
    ]


def choice(url: str, folder: Path, **values: Any) -> OpenAIJudge:
    """A judge's params, with its cache in a folder."""
    defaults = {"kind": "openai", "model": "tiny", "base_url": url, "cache": str(folder / "a.sqlite")}
    return OpenAIJudge(**{**defaults, **values})


def runner(url: str, folder: Path, **values: Any) -> PairRunner:
    """What asks such a judge."""
    return PairRunner(LlmJudge(choice(url, folder, **values)))


def judged(url: str, folder: Path, pairs: list[Comparison], **values: Any) -> list[Verdict]:
    """The verdicts of a judge that was prepared, as a stage does it."""
    judge = runner(url, folder, **values)
    judge.prepare(pairs)
    return list(judge.verdicts(pairs))
