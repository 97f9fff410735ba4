"""Stop strings: the texts at which an answer ends, wherever the tokens' borders lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PART_OF_A_CHARACTER = "\ufffd"


class StopTexts:
    """Finds the first of some texts in an answer.

    Args:
        tokenizer: Turns tokens into text.
        texts: Any of these ends an answer; it and all behind it are cut off.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._texts = texts
        self._last = {text[-1] for text in texts}
        self._ends: dict[int, bool] = {}

    def cut(self, ids: Sequence[int]) -> tuple[tuple[int, ...], str] | None:
        """Return the tokens and the text before the first stop string of an answer, None if it has none.

        A token that holds the end of the text and the beginning of the stop string counts. Called after each token, it
        decodes an answer only where its last token can be the end of a stop string.

        Args:
            ids: The tokens of the answer so far.
        """
        if not self._texts or not self.can_end(ids[-1]):
            return None
        text = self.text(ids)
        places = [place for stop in self._texts if (place := text.find(stop)) >= 0]
        if not places:
            return None
        text, count = text[: min(places)], len(ids)
        while count and self.text(ids[: count - 1]).startswith(text):
            count -= 1
        return tuple(ids[:count]), text

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of an answer's tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def can_end(self, token: int) -> bool:
        """Return whether a stop string can end in a token: it has its last character, a part of one, or no text."""
        if token not in self._ends:
            piece = self._tokenizer.decode([token])
            is_blank_last = any(character.isspace() for character in self._last)  # tokenizers may strip a lone blank
            self._ends[token] = (
                is_blank_last or not piece or _PART_OF_A_CHARACTER in piece or not self._last.isdisjoint(piece)
            )
        return self._ends[token]
