"""Label Studio's export of pairwise annotations."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tasks.pairs.forms.form import Form
from tasks.pairs.raw.cells import Refused, need, short
from tasks.pairs.record.pair import ABSENT, get_field


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelStudio(Form):
    """Label Studio's export: `selected` is left or right, and `to_name` names the two answers in `data`."""

    def inner_paths(self) -> Iterator[str]:
        """Yield every path that the form reads."""
        yield from super().inner_paths()
        yield "annotations"

    def pairs(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the pair that most annotators chose."""
        votes = Counter(self._votes(row))
        if not votes:
            raise Refused("no_vote", "`annotations` holds no pairwise result that was not cancelled")
        ranking = votes.most_common()
        if len(ranking) > 1 and ranking[0][1] == ranking[1][1]:
            raise Refused("tie", "as many annotators chose the one answer as the other")
        chosen, rejected = ranking[0][0]
        return [{"chosen": need(row, f"data.{chosen}"), "rejected": need(row, f"data.{rejected}")}]

    def _votes(self, row: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the names of the better and the worse answer of each annotator."""
        annotations = need(row, "annotations")
        for annotation in annotations if isinstance(annotations, list) else []:
            if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
                continue
            for result in annotation.get("result") or []:
                if isinstance(result, dict) and result.get("type") == "pairwise":
                    yield _sides(result)


def _sides(result: dict[str, Any]) -> tuple[str, str]:
    names = str(result.get("to_name", "")).split(",")
    selected = get_field(result, "value.selected")
    if len(names) != 2 or selected not in ("left", "right"):
        shown = None if selected is ABSENT else selected
        raise Refused("unknown_vote", f"`annotations` selects {short(shown)} of {len(names)} answers")
    left, right = (name.strip() for name in names)
    return (left, right) if selected == "left" else (right, left)


LABEL_STUDIO = LabelStudio(
    name="label-studio",
    about="`selected` in annotations says which of the answers in data is chosen; the majority counts",
    needs=("annotations", "data"),
    paths={
        "prompt": ("data.prompt", "data.question", "data.instruction", "data.text", "data.messages"),
        "system": ("data.system", "data.system_prompt"),
    },
    beside=("predictions",),
)
