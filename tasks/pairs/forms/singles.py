"""Forms of one answer a row, with a score, a rank or a thumb; answers to one prompt make pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from tasks.pairs.forms.form import Form, Paths, each, find
from tasks.pairs.forms.ranked import Pairing
from tasks.pairs.forms.votes import meanings_of, number_of, spelling
from tasks.pairs.raw.cells import Refused, is_blank, json_value, kind, need, short
from tasks.pairs.record.pair import ABSENT

_UP = ("up", "thumbs_up", "thumbs up", "thumbsup", "positive", "good", "like", "yes", "desirable", "👍")
_DOWN = ("down", "thumbs_down", "thumbs down", "thumbsdown", "negative", "bad", "dislike", "no", "undesirable", "👎")
THUMBS = meanings_of({"up": (True, 1, *_UP), "down": (False, 0, -1, *_DOWN)})


@dataclasses.dataclass(frozen=True)
class Single:
    """An answer of one row.

    Attributes:
        common: What else the row says, under the standard columns.
        reply: The answer; the mark for none where the row is a score alone.
        value: Its score (the higher, the better), or up or down for a thumb; None where it stands in another row.
        key: What joins an answer to its scores; empty for nothing.
    """

    common: dict[str, Any]
    reply: Any
    value: float | str | None
    key: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Singles(Form):
    """One answer a row.

    Attributes:
        text: Where the answer stands; empty where the row is a score alone.
        value: Where its score, rank or thumb stands; a list of objects has a value and a name each.
        measure: What the value is.
        values: What each thumb's spelling means.
        key: What joins an answer to scores in other rows.
        pairing: Which answers of one prompt make pairs; of thumbs, every up with every down for `all_pairs`, else each
            thumb once.
        min_gap: The least difference of two scores.
    """

    text: Paths = ""
    value: Paths = ""
    measure: Literal["score", "rank", "thumb"] = "thumb"
    values: Mapping[str, str] = dataclasses.field(default_factory=lambda: THUMBS)
    key: Paths = ""
    pairing: Pairing = "best_worst"
    min_gap: float = 0.0

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        for paths in (self.text, self.value, self.key):
            yield from filter(None, each(paths))

    def singles(self, row: dict[str, Any]) -> list[Single | dict[str, Any]]:
        """Return the answers of a row, or whole pairs where it holds some.

        Raises:
            Refused: The row holds no answer with a value.
        """
        key = find(row, self.key) if self.key else ""
        reply = self.reply(row) if self.text else ABSENT
        return [Single(self.common(row), reply, self.value_of(row), "" if is_blank(key) else str(key))]

    def reply(self, row: dict[str, Any]) -> Any:
        """Return the row's answer."""
        value = find(row, self.text)
        return need(row, each(self.text)[0]) if value is ABSENT else value

    def value_of(self, row: dict[str, Any]) -> float | str | None:
        """Return the score or thumb of a row; None where a score may stand in another row."""
        value = find(row, self.value) if self.value else ABSENT
        if is_blank(value):
            if self.key:
                return None
            if value is ABSENT:
                need(row, each(self.value)[0])
            raise Refused("no_vote", f"`{each(self.value)[0]}` holds no vote")
        return self.meaning(_one_score(value, each(self.value)[0]))

    def meaning(self, value: Any) -> float | str:
        """Return a number of which the higher is the better, or `up` or `down`."""
        name = each(self.value)[0]
        if self.measure != "thumb":
            if isinstance(value, str) and spelling(value) in self.values:
                detail = f"`{name}` is {short(value)}, which is no number but a thumb"
                raise Refused("bad_score", f"{detail}: name both thumbs in `ingest.votes`, as `up` and `down`")
            return number_of(value, name) * (1 if self.measure == "score" else -1)
        meaning = None if isinstance(value, dict | list) else self.values.get(spelling(value))
        if meaning not in ("up", "down"):
            raise Refused("unknown_vote", f"`{name}` is {short(value)}, no known thumb: name it in `ingest.votes`")
        return meaning


def _one_score(value: Any, name: str) -> Any:
    """Return the value of the one score in a list or mapping of scores; among several, of the one that a user gave."""
    if isinstance(value, dict):
        value = [{"name": key, **item} for key, item in value.items() if isinstance(item, dict)]
    if not isinstance(value, list):
        return value
    scores = {str(item.get("name", item.get("key"))): item for item in value if isinstance(item, dict)}
    if len(scores) > 1:
        by_users = {key: item for key, item in scores.items() if any(word in key.lower() for word in ("user", "thumb"))}
        if len(by_users) != 1:
            detail = f"`{name}` holds scores of {len(scores)} kinds ({', '.join(scores)[:80]})"
            raise Refused("unknown_vote", f"{detail}: name one as `ingest.columns.score`, such as {name}.0.value")
        scores = by_users
    for item in scores.values():
        return next((item[key] for key in ("value", "score", "avg") if not is_blank(item.get(key))), None)
    raise Refused("no_vote", f"`{name}` holds no score")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversations(Singles):
    """A conversation that ends with the answer."""

    def singles(self, row: dict[str, Any]) -> list[Single | dict[str, Any]]:
        """Return the last turn as the answer, and the turns before as the prompt."""
        turns = json_value(need(row, each(self.text)[0]))
        if not isinstance(turns, list) or len(turns) < 2:
            raise Refused("not_a_list", f"`{each(self.text)[0]}` is {kind(turns)}, and no list of two messages or more")
        return [Single({**self.common(row), "prompt": turns[:-1]}, turns[-1:], self.value_of(row))]

    def columns_given(self) -> tuple[str, ...]:
        """Return the standard columns that the rewritten rows have."""
        return ("prompt", *super().columns_given())
