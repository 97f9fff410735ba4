"""Forms that no table names, where the columns' names and values leave no doubt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from tasks.pairs.forms.form import Form
from tasks.pairs.forms.ranked import ranked_by
from tasks.pairs.forms.votes import TEXTS, Votes, are_known, numbered, spelling
from tasks.pairs.raw.cells import is_blank
from tasks.pairs.raw.column_names import spaced

_SIDE = re.compile(
    r"(?:(?P<before>.+?)[ _-]?)(?P<side>a|b|A|B|0|1|2|left|right)"
    r"|(?P<side_before>left|right|first|second)[ _-](?P<after>.+)"
)
_ANSWERS = re.compile(r"(.*[ _-])?(response|answer|output|completion|generation|reply|candidate|conversation|summary)")
_WINNERS = ("winner", "preference", "preferred", "label", "choice", "vote", "verdict", "better", "selected", "best")
_ORDERS = (("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"), ("first", "second"))
_NOUN = r"(?P<noun>responses?|answers?|completions?|outputs?|repl(?:y|ies)|messages?|conversations?|text)"
_BETTER = r"chosen|preferred|accepted|favou?red|better|winning|winner|good|positive|pos"
_WORSE = (
    r"rejected|(?:non |not |un|dis|less )?preferred|(?:non |not |un)(?:accepted|favou?red|chosen)|disfavou?red|declined"
    r"|worse|losing|loser|bad|negative|neg"
)
_ALONE = r"chosen|.*preferred|.*accepted|rejected|declined|.*favou?red"  # that say so without a noun
_LISTS = ("answers", "completions", "responses", "generations", "candidates", "outputs", "replies")
_TEXTS = ("text", "answer", "response", "completion", "content", "output", "generation")
_SCORES = ("score", "overall_score", "rating")
_RANKS = ("rank", "ranking")


def guess(sample: Sequence[dict[str, Any]]) -> Form | None:
    """Return the form that names and values tell beyond doubt; None for none."""
    rows = [row for row in sample if row]
    names = [str(name) for name in dict.fromkeys(name for row in rows for name in row)]
    common = [name for name in names if sum(name in row for row in rows) * 2 > len(rows)]
    return _votes(rows, common) or _scores(common) or _named_sides(rows, common) or _lists(rows, common)


def _votes(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Form | None:
    sides = [(first, second, order) for first, second in combinations(names, 2) if (order := _order(first, second))]
    winners = [name for name in names if name in _WINNERS]
    if len(sides) != 1 or len(winners) != 1:
        return None
    first, second, order = sides[0]
    votes = [row[winners[0]] for row in rows if not is_blank(row.get(winners[0]))]
    values = {spelling(first): "first", spelling(second): "second"} | TEXTS
    if order[0].isdecimal() and {spelling(vote) for vote in votes if not isinstance(vote, dict | list)} >= set(order):
        values |= numbered(*order)  # both numbers occur, and they are those in the names
    if not votes or not are_known(votes, values):
        return None
    return Votes(
        name="votes",
        about=f"`{winners[0]}` says which of `{first}` and `{second}` is chosen",
        first=first,
        second=second,
        winner=(winners[0],),
        values=values,
    )


def _scores(names: Sequence[str]) -> Form | None:
    """Return the form of two answers with a score each, such as `response_a` with `score_a`."""
    answers = [(first, second, order) for first, second in combinations(names, 2) if (order := _order(first, second))]
    scores = [
        (one, other)
        for word in _SCORES
        for _, _, order in answers
        if (one := f"{word}_{order[0]}") in names and (other := f"{word}_{order[1]}") in names
    ]
    if len(answers) != 1 or len(scores) != 1 or any(name in _WINNERS for name in names):
        return None
    first, second, _ = answers[0]
    about = f"the higher of `{scores[0][0]}` and `{scores[0][1]}` says which of `{first}` and `{second}` is chosen"
    return Votes(name="votes", about=about, first=first, second=second, scores=scores[0])


def _named_sides(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Form | None:
    """Return the form of two replies whose names say which is better, such as `preferred` with `non_preferred`."""
    replies = [name for name in names if all(isinstance(row.get(name), str | list | dict | None) for row in rows)]
    better, worse = (
        {name: noun for name in replies if (noun := _noun(name, side)) is not None} for side in (_BETTER, _WORSE)
    )
    worse = {name: noun for name, noun in worse.items() if name not in better}
    pairs = [(one, other) for one in better for other in worse if better[one] == worse[other]]
    if len(pairs) != 1:
        return None
    chosen, rejected = pairs[0]
    about = f"`{chosen}` over `{rejected}`"
    return Form(name=f"{chosen}/{rejected}", about=about, paths={"chosen": chosen, "rejected": rejected})


def _noun(name: str, side: str) -> str | None:
    """Return the noun in the name of a reply of a side, such as response; empty for none, None for other names."""
    words = spaced(name)
    for form in (rf"(?:{side}) {_NOUN}", rf"{_NOUN} (?:{side})", rf"(?P<noun>)(?:{_ALONE})"):
        if (match := re.fullmatch(form, words)) and (match["noun"] or re.fullmatch(side, words)):
            return match["noun"]
    return None


def _order(first: str, second: str) -> tuple[str, str] | None:
    """Return the two sides that the names of two answers have, such as a and b; None where they are no such names."""
    parts = [_SIDE.fullmatch(name) for name in (first, second)]
    if not all(parts):
        return None
    (one, side), (other, other_side) = [
        (part["before"] or part["after"], (part["side"] or part["side_before"]).lower()) for part in parts if part
    ]
    is_pair = one == other and _ANSWERS.fullmatch(one.lower()) and (side, other_side) in _ORDERS
    return (side, other_side) if is_pair else None


def _lists(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> Form | None:
    for name in names:
        items = [item for row in rows if isinstance(row.get(name), list) for item in row[name]]
        if name not in _LISTS or not items or not all(isinstance(item, dict) for item in items):
            continue
        keys = {key for item in items for key in item}
        text, score, rank = ([key for key in options if key in keys] for options in (_TEXTS, _SCORES, _RANKS))
        if len(text) == 1 and len(score) + len(rank) == 1:
            return ranked_by(name, text[0], (score + rank)[0], is_rank=bool(rank))
    return None
