"""Which form a source has: the one that params name, a known schema, or none but the standard columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

from tasks.core.errors import ConfigError
from tasks.pairs.forms.form import Form
from tasks.pairs.forms.guess import guess
from tasks.pairs.forms.known import KNOWN
from tasks.pairs.forms.quoted import quoted_texts
from tasks.pairs.forms.ranked import Pairing, Ranked, ranked_by
from tasks.pairs.forms.singles import Singles
from tasks.pairs.forms.votes import Votes, VoteValues, votes_by_params
from tasks.pairs.record.pair import Columns

SAMPLE = 200  # rows of a source that its form is recognised by
STANDARD = "standard"
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class FormSettings:
    """What params say of forms: `ingest.form`, `votes`, `pairing` and `min_gap`.

    Raises:
        ConfigError: No form has this name.
    """

    form: str = AUTO
    votes: VoteValues = dataclasses.field(default_factory=VoteValues)
    pairing: Pairing = "best_worst"
    min_gap: float = 0.0

    def __post_init__(self) -> None:
        names = [AUTO, STANDARD, *(form.name for form in KNOWN)]
        if self.form not in names:
            raise ConfigError(f"`ingest.form` is {self.form!r}", f"write one of {', '.join(names)}")


def choose_form(
    sample: Sequence[dict[str, Any]], settings: FormSettings, columns: Columns, ignored: Collection[str] = ()
) -> Form | None:
    """Return the form of a source with these first rows; None for columns of chosen and rejected that are plain.

    Raises:
        ConfigError: The columns that `ingest.columns` names make no form, or a vote has two meanings.
    """
    form = _form_of(sample, settings, columns)
    if form is None:
        return quoted_texts(sample, columns) if settings.form == AUTO else None
    if isinstance(form, Votes):
        values = {**form.values, **settings.votes.meanings()}
        form = dataclasses.replace(form, values=values, min_gap=settings.min_gap)
    if isinstance(form, Singles):
        form = dataclasses.replace(form, values={**form.values, **settings.votes.meanings()})
    if isinstance(form, Ranked | Singles):
        form = dataclasses.replace(form, pairing=settings.pairing, min_gap=settings.min_gap)
    return form.bind(columns, ignored)


def _form_of(sample: Sequence[dict[str, Any]], settings: FormSettings, columns: Columns) -> Form | None:
    if settings.form == STANDARD:
        return None
    if settings.form != AUTO:
        return next(form for form in KNOWN if form.name == settings.form)
    if columns.first or columns.second or columns.winner:
        return votes_by_params(columns, settings.votes, settings.min_gap)
    if columns.answers or columns.text or columns.rank:
        return _ranked_by_params(columns, settings.votes)
    if (columns.chosen, columns.rejected) != (Columns.chosen, Columns.rejected):
        return None
    form = _recognise(sample)
    if columns.score:
        if not isinstance(form, Singles):
            advice = "name the answers, too: `answers`, a list, or `text`, one answer a row"
            raise ConfigError("`ingest.columns` names a `score`, and no answers", advice)
        return dataclasses.replace(form, value=columns.score)
    return form


def _recognise(sample: Sequence[dict[str, Any]]) -> Form | None:
    """Return the first known form that more than half of the rows have, else one that names and values tell."""
    has_both = sum("chosen" in row and "rejected" in row for row in sample) * 2 > len(sample)
    for form in KNOWN:
        is_standard = {"chosen", "rejected"} <= set(form.needs)
        if has_both == is_standard and sum(map(form.is_of, sample)) * 2 > len(sample):
            return form
    return None if has_both else guess(sample)


def _ranked_by_params(columns: Columns, votes: VoteValues) -> Form:
    """Return the form that `ingest.columns` names by `answers`, `text`, and `score` or `rank`.

    Without `answers` each row is one answer; where `ingest.votes` names thumbs, the score is one.

    Raises:
        ConfigError: Neither score nor rank is named, or both.
    """
    value = columns.score or columns.rank
    if not value or (columns.score and columns.rank):
        advice = "name the column that says which answer is better, as `score` (higher) or `rank` (lower)"
        raise ConfigError("`ingest.columns` names answers, and not one of `score` and `rank`", advice)
    if not columns.answers:
        is_thumb = bool(votes.up or votes.down)
        return Singles(
            name="singles",
            about=f"`{columns.text}` with `{value}`; answers to one prompt are compared",
            text=columns.text or "",
            value=value,
            measure="thumb" if is_thumb else "score" if columns.score else "rank",
        )
    return ranked_by(columns.answers, columns.text or "", value, is_rank=bool(columns.rank))
