"""How judges and guards read text: its words, its n-grams, and what counts as a word with content."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

# Function words of English that say nothing about a question's topic. Part of the overlap rule's version.
_FUNCTION_WORDS = """
    a about above after again all also am an and any anyone anything are aren't as at be because been before being
    below between both but by can can't cannot could couldn't did didn't do does doesn't doing don't down during each
    every few for from further get give had has hasn't have haven't having he hello help her here hers hi him his how
    however i i'd i'll i'm i've if in into is isn't it it's its just know let like lot many may me might mine more most
    much must my need no nor not now of off on once one only or other our ours out over own please same say shall she
    should shouldn't so some someone something still such tell than thank thanks that that's the their theirs them then
    there these they they're this those through to too under until up upon us very want was wasn't way we well were
    weren't what what's when where which while who whom whose why will with won't would wouldn't yes yet you you'd
    you'll you're you've your yours
"""
STOP_WORDS = frozenset(_FUNCTION_WORDS.split())


def words(text: str) -> list[str]:
    """Return the words of a text, case-folded, with straight apostrophes and without punctuation."""
    return [match.group().casefold().replace("’", "'") for match in _WORD.finditer(text)]


def content_words(text: str) -> set[str]:
    """Return the distinct words of a text that are not stop words."""
    return {word for word in words(text) if word not in STOP_WORDS}


def ngrams(items: list[str], size: int) -> list[tuple[str, ...]]:
    """Return the runs of `size` words in order; none when the text is shorter."""
    return [tuple(items[start : start + size]) for start in range(len(items) - size + 1)]


def distinct_ngram_share(text: str, size: int) -> float:
    """Return the share of distinct n-grams among all of a text: 1 when nothing repeats or the text is too short."""
    runs = ngrams(words(text), size)
    return len(set(runs)) / len(runs) if runs else 1.0


def contains_phrase(text_words: list[str], phrase_words: list[str]) -> bool:
    """Tell whether the text contains the phrase as a run of whole words."""
    return tuple(phrase_words) in ngrams(text_words, len(phrase_words))
