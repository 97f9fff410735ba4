"""The four charts of training: drawn for the report page, and as standalone SVG files for any other page."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from markupsafe import Markup

from tasks.core.files import write_text
from tasks.page import charts, words
from tasks.page.charts import Series
from tasks.page.facts import TrainingFacts

STYLE = Path(__file__).with_name("curve.css")
_WIDTH, _HEIGHT = 640, 286  # px of a standalone file
_LEFT, _TOP, _RIGHT = 58, 52, 84  # px around its plot, for the ticks, the title and the curves' names


@dataclasses.dataclass(frozen=True)
class CurveChart:
    """A chart of training.

    Attributes:
        name: The name of its file, without the suffix.
        title: Its title.
        note: What to look for in it.
        drawing: The chart as inline SVG, without colours; a paragraph of HTML where there are no points.
    """

    name: str
    title: str
    note: str
    drawing: Markup


def curve_charts(training: TrainingFacts) -> list[CurveChart]:
    """Return the charts of loss, accuracy, reward margin and log-probabilities over optimizer steps."""

    def both(name: str, train_style: str = "reference", label: str = "held out", style: str = "policy") -> list[Series]:
        return [
            Series("", training.train_curves[name], f"{train_style} faint"),
            Series(label, training.eval_curves[name], style, has_dots=True),
        ]

    # only the plain DPO loss starts at ln 2
    if math.isclose(training.before.loss, math.log(2), abs_tol=0.01):
        start, mark = "Starts at ln 2 = 0.69, where the adapter changes nothing.", (math.log(2), "ln 2")
    else:
        start, mark = "Does not start at ln 2 = 0.69: the loss has more than the plain DPO term.", None
    logps = [one for side in ("chosen", "rejected") for one in both(f"logp_{side}", side, side, side)]
    return [
        CurveChart("loss", "Loss", start, charts.line_chart("Loss", both("loss"), mark=mark)),
        CurveChart(
            "accuracy",
            "Accuracy",
            "Share of pairs whose chosen answer has the higher reward.",
            charts.line_chart("Accuracy", both("accuracy"), words.percent, lambda value: words.percent(value, 0)),
        ),
        CurveChart(
            "margin",
            "Reward margin",
            "Reward of chosen minus rejected. It can grow while the text gets worse.",
            charts.line_chart("Reward margin", both("margin")),
        ),
        CurveChart(
            "logps",
            "Log-probability of the answers",
            "If chosen falls along with rejected, that is likelihood collapse, which the loss hides.",
            charts.line_chart("Log-probability", logps),
        ),
    ]


def write_curves(folder: Path, training: TrainingFacts) -> None:
    """Write each chart that has points to ``folder`` as a standalone file, such as `loss.svg`."""
    for chart in curve_charts(training):
        if chart.drawing.startswith("<svg"):
            write_text(folder / f"{chart.name}.svg", standalone(chart))


def standalone(chart: CurveChart) -> Markup:
    """Return a chart as an SVG document of fixed size with its colours inside, which needs no style sheet of a page."""
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        '<title>{title}</title><style>{style}</style><rect class="sheet" width="100%" height="100%"/>'
        '<text class="title" x="{gap}" y="26">{title}</text>'
        '<svg x="{left}" y="{top}" width="{across}" height="{down}">{drawing}</svg></svg>\n'
    ).format(
        width=_WIDTH,
        height=_HEIGHT,
        title=chart.title,
        style=Markup(STYLE.read_text(encoding="utf-8")),
        gap=12,
        left=_LEFT,
        top=_TOP,
        across=_WIDTH - _LEFT - _RIGHT,
        down=charts.LINE_HEIGHT,
        drawing=chart.drawing,
    )
