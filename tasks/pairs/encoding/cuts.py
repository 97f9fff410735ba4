r"""Where a text can be cut so that its pieces, tokenised one by one, give the tokens of the whole.

A fast tokenizer first splits a text at its added tokens (`<|im_start|>`), then normalises each part, splits it into
words by a regular expression, and looks every word up alone. So two kinds of places are cuts:

    before an added token   the text is split there before anything else happens
    before a space          behind a visible ASCII character, where no match of the expression holds such a character
                            with a space behind it

Where a tokenizer does not guarantee this, there is no cut, and texts are tokenised whole.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection
from itertools import chain, pairwise
from typing import Any

# In each of these, what stands before a space in a match is blank; none looks back, and a look ahead follows blanks.
# Each is written as the tokenizers of the family write it.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORD_PATTERNS = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}",
    "Qwen 2": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}",
    "GPT-4o": rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_NORMALIZERS = (None, "NFC", "NFD", "NFKC", "NFKD")  # a space combines with nothing before it
_WORD_CUT = re.compile(r"(?<=[!-~])(?= )")
_CALLS = ("__call__", "_encode_plus", "set_truncation_and_padding")  # what the proof is about


@dataclasses.dataclass(frozen=True)
class Cuts:
    """The cuts that a tokenizer allows.

    Attributes:
        tokens: Matches the added tokens before which texts are cut; None for none.
        words: Matches the places before a space, with no characters; None where there is no cut.
    """

    tokens: re.Pattern[str] | None = None
    words: re.Pattern[str] | None = None

    @classmethod
    def of(cls, tokenizer: Any) -> Cuts:
        """Return the cuts of a tokenizer of transformers."""
        from transformers import PreTrainedTokenizerFast

        kind = type(tokenizer)
        if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.split_special_tokens:
            return cls()
        if any(getattr(kind, name) is not getattr(PreTrainedTokenizerFast, name) for name in _CALLS):
            return cls()
        core = tokenizer.backend_tokenizer
        added = list(core.get_added_tokens_decoder().values())
        if any(token.lstrip or token.rstrip or token.single_word for token in added):  # they look at their neighbours
            return cls()

        first = [token.content for token in added if not token.normalized]
        alone = "|".join(re.escape(token) for token in first if _splits_alone(token, first))
        has_space = any(" " in token.content for token in added)
        is_known = _state(core.normalizer).get("type") in _NORMALIZERS and _cuts_words(core.pre_tokenizer)
        return cls(re.compile(alone) if alone else None, _WORD_CUT if is_known and not has_space else None)

    def pieces(self, text: str) -> list[str]:
        """Return the pieces of a text, cut wherever it can be."""
        begins = [match.start() for match in self.tokens.finditer(text)] if self.tokens else []
        bounds = [0, *(begin for begin in begins if begin > 0), len(text)]
        parts = [text[begin:end] for begin, end in pairwise(bounds)]
        return list(chain.from_iterable(map(self.words.split, parts))) if self.words else parts


def _splits_alone(token: str, tokens: Collection[str]) -> bool:
    """Return whether a text is split at this added token whatever stands around it."""
    is_longest = not any(other != token and other.startswith(token) for other in tokens)
    return is_longest and not any(token[0] in other[1:] for other in tokens)  # so none reaches into it


def _cuts_words(pre_tokenizer: Any) -> bool:
    """Return whether it splits before every space that has a visible ASCII character before it."""
    state = _state(pre_tokenizer)
    steps = state["pretokenizers"] if state.get("type") == "Sequence" else [state]
    verdicts = [_splits_at_space(step) for step in steps]
    return any(verdicts) and None not in verdicts


def _splits_at_space(step: dict[str, Any]) -> bool | None:
    """Return whether a step splits there; None where it may split a whole text otherwise than its pieces."""
    match step:
        case {"type": "ByteLevel", "use_regex": is_gpt2}:
            return bool(is_gpt2)
        case {"type": "Digits"}:
            return False
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return True if pattern in WORD_PATTERNS.values() else None
    return None


def _state(part: Any) -> dict[str, Any]:
    """Return the settings of a tokenizer's part."""
    return json.loads(part.__getstate__()) if part is not None else {"type": None}
