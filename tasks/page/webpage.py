"""The report page: facts and charts in the template, with every text escaped.

Answers are untrusted text. Jinja's autoescaping is on everywhere, undefined names are errors, and the page's
Content-Security-Policy forbids scripts and loads, in case an escape ever fails.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jinja2
from markupsafe import Markup

from tasks.page import charts, words
from tasks.page.curve_files import curve_charts
from tasks.page.facts import AnswerFacts, EvidenceFacts, Facts, Rate, TrainingFacts
from tasks.page.snippet import loading_snippet

FOLDER = Path(__file__).parent
MOST_SLICES = 20  # more would be unreadable; the others are in the metrics
INTERVALS = {"wilson": "Wilson's score", "normal": "mean ± z standard errors", "bca": "BCa bootstrap over prompts"}
SIDE_NAMES = {
    "policy": "adapter",
    "reference": "base",
    "control": "base, sampled again",
    "champion": "champion of the registry",
}


@dataclasses.dataclass(frozen=True)
class Tile:
    """A key number of the first screen."""

    label: str
    value: str
    note: str


@dataclasses.dataclass(frozen=True)
class RateRow:
    """A rate and its chart."""

    label: str
    note: str
    rate: Rate
    track: Markup


@dataclasses.dataclass(frozen=True)
class MeasureRow:
    """A held-out measure before and after, as text."""

    label: str
    before: str
    after: str
    change: str


def render(facts: Facts, title: str, excerpt_chars: int) -> str:
    """Return the page.

    Args:
        facts: All facts on it.
        title: Its title.
        excerpt_chars: Characters shown of each question or answer; the rest is counted.
    """
    evidence = facts.evidence
    template = _environment().get_template("template.html.jinja")

    return template.render(
        facts=facts,
        data=facts.data,
        training=facts.training,
        evidence=evidence,
        answers=facts.answers,
        title=title,
        limit=excerpt_chars,
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        verdict=words.verdict(evidence),
        caveats=words.caveats(facts.base, evidence),
        headline=_headline(evidence),
        overall=_overall(evidence),
        slices=[_row(one.name, words.many(one.prompts, "prompt"), one.rate) for one in evidence.slices[:MOST_SLICES]],
        more_slices=len(evidence.slices[MOST_SLICES:]),
        details=_details(evidence),
        tiles=_tiles(facts),
        passes=words.passes(facts.training.epochs),
        curves=curve_charts(facts.training),
        measures=_measures(facts.training),
        likelihood=words.likelihood(facts.training.before, facts.training.after),
        charts=_histograms(facts),
        axis=charts.interval_axis(),
        side_names=SIDE_NAMES,
        base_name=words.base_name(facts.base),
        snippet=loading_snippet(facts.base),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "interval": words.interval,
        "decimal": words.number,
        "count": words.count,
        "many": words.many,
        "visible": words.visible,
    }
    environment.globals["bar"] = lambda share: charts.share_bar(share, "")
    return environment


def _row(label: str, note: str, rate: Rate, style: str = "policy") -> RateRow:
    return RateRow(words.visible(label, 60), note, rate, charts.interval_track(words.visible(label, 60), rate, style))


def _headline(evidence: EvidenceFacts) -> list[RateRow]:
    rows = [_row("Adapter against its base", "", evidence.rate)]
    if evidence.control:
        rows.append(_row("Base against itself", "should hold one half", evidence.control, "reference"))
    return rows


def _overall(evidence: EvidenceFacts) -> list[RateRow]:
    rows = [_row("Win rate", "", evidence.rate)]
    if evidence.length_controlled:
        rows.append(_row("Length-controlled", "as if both wrote equally long", evidence.length_controlled))
    if evidence.champion:
        label = f"against version {words.visible(evidence.champion_digest[:12], 12)}"
        rows.append(_row("Champion", label, evidence.champion))
    if evidence.control:
        rows.append(_row("Control", "the base against itself", evidence.control, "reference"))
    return rows


def _details(evidence: EvidenceFacts) -> list[tuple[str, str, str]]:
    """Return the figures beside the win rate: label, value, explanation."""
    share = words.maybe_percent

    return [
        ("Won, tied, lost", " · ".join(words.count(n) for n in (evidence.wins, evidence.ties, evidence.losses)), ""),
        (
            "One-sided lower bound",
            words.percent(evidence.lower_bound),
            f"at {words.level(evidence)}; the gate asks for more at each further look at the same prompts",
        ),
        *([("Judged by", words.visible(evidence.judge, 80), "")] if evidence.judge else []),
        ("Interval by", words.visible(INTERVALS.get(evidence.interval_method, evidence.interval_method), 80), ""),
        ("p-value", words.p_value(evidence.p_value), "probability of so high a rate if both are equally good"),
        ("Coverage", words.percent(evidence.coverage), "prompts with a verdict"),
        ("Consistency", share(evidence.consistency), "same verdict in both orders"),
        ("First-position share", share(evidence.first_position_share), "wins of the answer shown first; fair is 50 %"),
        (
            "Smallest provable win rate",
            share(evidence.smallest_detectable),
            "with so few prompts, a smaller one is within the noise",
        ),
    ]


def _tiles(facts: Facts) -> list[Tile]:
    training, evidence = facts.training, facts.evidence
    before, after = training.before, training.after
    passed = len(evidence.guards) - len(evidence.failed_guards)
    ratio = evidence.length_ratio
    return [
        Tile("Win rate", words.percent(evidence.rate.value), words.interval(evidence.rate)),
        Tile("Held-out accuracy", words.percent(after.accuracy), f"{words.percent(before.accuracy)} before"),
        Tile("Reward margin", words.number(after.margin), f"{words.number(before.margin)} before"),
        Tile(
            "Pairs trained on", words.count(training.train_pairs), f"{words.many(facts.data.refused, 'row')} rejected"
        ),
        Tile("Answer length", "–" if ratio is None else f"× {words.number(ratio)}", _length_note(facts.answers)),
        Tile("Guards", f"{passed} of {len(evidence.guards)}", "passed"),
    ]


def _length_note(answers: AnswerFacts) -> str:
    means = {side.name: side.tokens_mean for side in answers.sides}
    if not {"policy", "reference"} <= means.keys():
        return "of the base's"
    return f"{words.number(means['policy'], 1)} tokens, base {words.number(means['reference'], 1)}"


def _measures(training: TrainingFacts) -> list[MeasureRow]:
    before, after = training.before, training.after
    rows = [
        ("Loss", before.loss, after.loss, 3),
        ("Reward margin", before.margin, after.margin, 3),
        ("Log-probability of chosen, nats", before.logp_chosen, after.logp_chosen, 2),
        ("Log-probability of rejected, nats", before.logp_rejected, after.logp_rejected, 2),
    ]
    measures = [
        MeasureRow(label, words.number(old, digits), words.number(new, digits), _signed(new - old, digits))
        for label, old, new, digits in rows
    ]
    points = f"{_signed(100 * (after.accuracy - before.accuracy), 1)} points"
    accuracy = MeasureRow("Accuracy", words.percent(before.accuracy), words.percent(after.accuracy), points)
    return [measures[0], accuracy, *measures[1:]]


def _signed(value: float, digits: int) -> str:
    text = words.number(value, digits)
    return f"+{text}" if float(f"{value:.{digits}f}") > 0 else text


def _histograms(facts: Facts) -> dict[str, Markup]:
    return {
        "pairs": charts.mirror_histogram(
            "Lengths of chosen and rejected answers in the data", facts.data.lengths, "chosen", "rejected"
        ),
        "answers": charts.mirror_histogram(
            "Lengths of the adapter's and the base's answers", facts.answers.lengths, "policy", "reference"
        ),
    }
