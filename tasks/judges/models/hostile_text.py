"""Answers as hostile text: what a tokenizer would read as the end of a turn, or as a turn of another speaker."""

from __future__ import annotations

from typing import Any


def without_special_tokens(text: str, tokenizer: Any) -> str:
    """Return ``text`` with a blank inside each special token of ``tokenizer``, so that it is read as letters."""
    for token in special_tokens(tokenizer):
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the texts of the special tokens of two characters or more, the longest first."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    every = {*added, *tokenizer.all_special_tokens}
    return sorted((token for token in every if len(token) > 1), key=lambda token: (-len(token), token))
