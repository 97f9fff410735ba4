"""The held-out prompts as later stages and people see them: prompts.jsonl."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import TracebackType
from typing import Any

from tasks.core.json_lines import json_line
from tasks.pairs.encoding.encoder import EncodedPair
from tasks.pairs.record.pair import Pair, Prompt


@dataclasses.dataclass
class PromptWriter:
    """Writes each held-out prompt once, with the replies of its first pair; a context manager."""

    path: Path

    def __post_init__(self) -> None:
        self._stream = self.path.open("w", encoding="utf-8", newline="\n")
        self._seen: set[str] = set()

    def append(self, encoded: EncodedPair) -> None:
        """Add the prompt of a pair that has a row, unless it stands there."""
        if encoded.made is None or encoded.pair.prompt_id in self._seen:
            return
        self._seen.add(encoded.pair.prompt_id)
        self._stream.write(json_line({**describe(encoded.pair), "ids": encoded.prompt.tolist()}))

    def __len__(self) -> int:
        return len(self._seen)

    def __enter__(self) -> PromptWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stream.close()


def describe(pair: Pair) -> dict[str, Any]:
    """Return a pair's prompt as people read it, with its two published replies."""
    return {
        "prompt_id": pair.prompt_id,
        "slice": pair.slice,
        "display": _display(pair.prompt),
        "question": _question(pair.prompt),
        "gold_chosen": pair.chosen,
        "gold_rejected": pair.rejected,
    }


def _display(prompt: Prompt) -> str:
    """Return the prompt as readable text; a lone question stands without its role."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in prompt)


def _question(prompt: Prompt) -> str:
    """Return the last thing that the user said."""
    if isinstance(prompt, str):
        return prompt
    asked = [message.content for message in prompt if message.role == "user"]
    return asked[-1] if asked else prompt[-1].content
