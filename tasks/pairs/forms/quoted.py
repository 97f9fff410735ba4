"""Texts that were written as JSON or Python text, in quotes and with escapes, in all columns of a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tasks.pairs.forms.form import Form
from tasks.pairs.raw.cells import Refused, is_blank, json_value
from tasks.pairs.record.pair import Columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quoted(Form):
    """Columns of prompt, chosen and rejected whose texts all stand in quotes.

    Attributes:
        texts: The names of these columns.
    """

    texts: tuple[str, ...]

    def columns(self, columns: Columns) -> Columns:
        """Return what the columns are called: as before."""
        return columns

    def rows(self, row: dict[str, Any]) -> list[dict[str, Any] | Refused]:
        """Return the row with what its texts spell.

        Raises:
            Refused: A text has no quotes.
        """
        spelled = {name: _spelled(row[name]) for name in self.texts if not is_blank(row.get(name))}
        if plain := [name for name, text in spelled.items() if text is None]:
            detail = f"`{plain[0]}` has no quotes around its text, and most rows have: write all texts in one way"
            raise Refused("not_quoted", detail)
        return [{**row, **spelled}]


def quoted_texts(sample: Sequence[dict[str, Any]], columns: Columns) -> Quoted | None:
    """Return the form of a source of which most rows have all texts in quotes; None for others."""
    questions = [columns.prompt, *columns.questions, columns.instruction, columns.input, *columns.system_names]
    names = tuple(name for name in (*questions, columns.chosen, columns.rejected) if name)
    if sum(_is_quoted(row, names, columns) for row in sample) * 2 <= len(sample):
        return None
    about = "the texts of prompt, chosen and rejected are in quotes, as JSON or Python writes them; the quotes go"
    return Quoted(name="quoted", about=about, texts=names)


def _is_quoted(row: dict[str, Any], names: Sequence[str], columns: Columns) -> bool:
    filled = [name for name in names if not is_blank(row.get(name))]
    has_all = len(filled) > 2 and columns.chosen in filled and columns.rejected in filled
    return has_all and all(_spelled(row[name]) is not None for name in filled)


def _spelled(value: Any) -> str | None:
    """Return the text that a text in quotes spells; None for other values."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ('"', "'"):
        return None
    text = json_value(value)
    return text if isinstance(text, str) and text != value else None
