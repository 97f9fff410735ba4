"""Charts as inline SVG, drawn by hand: lines, intervals, histograms.

Horizontal positions are percentages and vertical positions are pixels, so a chart fills any width while its text keeps
its size; only curves are stretched, with strokes that do not scale. Colours are CSS classes: the page's style sheet
defines them for its light and dark themes, and curve.css for standalone files.

Every value in the markup is a number or goes through `Markup.format`, which escapes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from markupsafe import Markup

from tasks.page.bins import ticks
from tasks.page.facts import Curve, Histogram, Rate
from tasks.page.words import count, interval, number, percent

LINE_HEIGHT = 196  # px of a curve's plotting area
_BAR_HEIGHT = 72  # px of one half of a histogram
_LABEL_GAP = 15  # px between two labels at the ends of curves
_ACROSS = 1000  # width of a curve in units, before it is stretched


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve of a line chart.

    Attributes:
        name: The label at the curve's end; empty for none.
        points: (x, y) in ascending x.
        style: The CSS class: `policy`, `reference`, `chosen` or `rejected`, with ` faint` for noisy curves.
        has_dots: Whether each point is marked, with its value on hover.
    """

    name: str
    points: Curve
    style: str
    has_dots: bool = False


@dataclasses.dataclass(frozen=True)
class Axes:
    """Maps values to percent from the left and pixels from the top."""

    across: tuple[float, float]
    up: tuple[float, float]
    height: float

    def x(self, value: float) -> float:
        """Return percent from the left."""
        low, high = self.across
        return round(100 * (value - low) / (high - low), 3) if high > low else 50.0

    def y(self, value: float) -> float:
        """Return pixels from the top."""
        low, high = self.up
        return round(self.height * (1 - (value - low) / (high - low)), 2)


def line_chart(
    title: str,
    series: Sequence[Series],
    show: Callable[[float], str] = number,
    show_tick: Callable[[float], str] | None = None,
    mark: tuple[float, str] | None = None,
) -> Markup:
    """Draw curves over optimizer steps.

    Args:
        title: Read by screen readers, with the first and last value of each curve.
        series: The curves; curves without points are left out.
        show: Formats a value for the text on hover.
        show_tick: Formats a value for the axis; by default a number with just enough digits.
        mark: The value of a horizontal reference line, and its label.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return Markup('<p class="none">No points were recorded.</p>')

    values = [y for one in drawn for _, y in one.points] + ([mark[0]] if mark else [])
    marks_y = ticks(min(values), max(values))
    last = max(one.points[-1][0] for one in drawn)
    axes = Axes((0, last), (marks_y[0], marks_y[-1]), LINE_HEIGHT)
    label = show_tick or _tick_format(marks_y)

    parts = [_level(axes.y(value), label(value)) for value in marks_y]
    parts += [_step(axes.x(value), count(value), LINE_HEIGHT) for value in _steps(last)]
    parts.append(_unit("step", LINE_HEIGHT))
    if mark:
        parts.append(_mark(axes.y(mark[0]), mark[1]))
    parts += [_curve(one, axes) for one in drawn]
    parts += [_dots(one, axes, show) for one in drawn if one.has_dots]
    parts += _end_labels(drawn, axes)

    summary = "; ".join(f"{one.name} {show(one.points[0][1])} → {show(one.points[-1][1])}" for one in drawn if one.name)
    return _svg(f"{title}: {summary}", LINE_HEIGHT, parts, "lines")


def _steps(last: float) -> list[float]:
    """Return the round step numbers that fit on the axis."""
    return [value for value in ticks(0, max(last, 1), 5) if value <= last and value == int(value)]


def _tick_format(values: Sequence[float]) -> Callable[[float], str]:
    """Return a format with just enough digits to distinguish these round numbers."""
    texts = [f"{value:.6f}".rstrip("0") for value in values]
    digits = max(len(text) - text.index(".") - 1 for text in texts)
    return lambda value: number(value, digits)


def _unit(name: str, height: float) -> Markup:
    """Draw the unit of an axis behind its end."""
    return Markup('<text class="tick" x="100%" dx="22" y="{y}">{name}</text>').format(y=height + 18, name=name)


def _level(y: float, label: str) -> Markup:
    return Markup(
        '<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="0" dx="-8" y="{y}" dy="4" text-anchor="end">{label}</text>'
    ).format(y=y, label=label)


def _step(x: float, label: str, height: float) -> Markup:
    return Markup('<text class="tick" x="{x}%" y="{y}" text-anchor="middle">{label}</text>').format(
        x=x, y=height + 18, label=label
    )


def _mark(y: float, label: str) -> Markup:
    return Markup(
        '<line class="half" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
        '<text class="note" x="100%" dx="-4" y="{y}" dy="-5" text-anchor="end">{label}</text>'
    ).format(y=y, label=label)


def _curve(one: Series, axes: Axes) -> Markup:
    """Draw a curve in a nested SVG that is stretched over the width of the plot."""
    points = [(round(axes.x(x) * _ACROSS / 100, 1), axes.y(y)) for x, y in one.points]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    return Markup(
        '<svg width="100%" height="{height}" viewBox="0 0 {across} {height}" preserveAspectRatio="none">'
        '<path class="curve {style}" d="{path}" vector-effect="non-scaling-stroke"/></svg>'
    ).format(height=LINE_HEIGHT, across=_ACROSS, style=one.style, path=path)


def _dots(one: Series, axes: Axes, show: Callable[[float], str]) -> Markup:
    dot = Markup('<circle class="dot {style}" cx="{x}%" cy="{y}" r="{r}"><title>{text}</title></circle>')
    radius = 3.5 if len(one.points) <= 40 else 2
    return Markup("").join(
        dot.format(style=one.style, x=axes.x(x), y=axes.y(y), r=radius, text=f"{one.name}, step {count(x)}: {show(y)}")
        for x, y in one.points
    )


def _end_labels(drawn: Sequence[Series], axes: Axes) -> list[Markup]:
    """Draw each curve's name at its end; labels of curves that end close together are pushed apart."""
    named = sorted((axes.y(one.points[-1][1]), index) for index, one in enumerate(drawn) if one.name)
    places: list[float] = []
    for y, _ in named:
        places.append(max(y, places[-1] + _LABEL_GAP) if places else y)
    over = max(0.0, (places[-1] if places else 0.0) - LINE_HEIGHT)
    label = Markup('<text class="name {style}" x="100%" dx="9" y="{y}" dy="4">{name}</text>')
    return [
        label.format(style=drawn[index].style, y=round(place - over, 1), name=drawn[index].name)
        for place, (_, index) in zip(places, named, strict=True)
    ]


def interval_track(title: str, rate: Rate, style: str = "policy") -> Markup:
    """Draw one rate in [0, 1] with its interval, and the line at one half.

    It is as high as its row, so that the lines of all rows join.
    """
    parts = [_upright(share) for share in (0.0, 0.25, 0.75, 1.0)]
    parts.append(Markup('<line class="half" x1="50%" x2="50%" y1="0" y2="100%"/>'))
    if rate.low is not None and rate.high is not None:
        parts.append(_whisker(rate.low, rate.high, style))
    dot = Markup('<circle class="dot {style}" cx="{x}%" cy="50%" r="6"/>')
    parts.append(dot.format(style=style, x=_share(rate.value)))
    return _svg(f"{title}: {percent(rate.value)}, interval {interval(rate)}", "100%", parts, "track")


def interval_axis() -> Markup:
    """Draw the numbers under a column of interval tracks."""
    label = Markup('<text class="tick" x="{x}%" y="13" text-anchor="{anchor}">{text}</text>')
    shares = ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end"))
    parts = [label.format(x=_share(share), anchor=anchor, text=percent(share, 0)) for share, anchor in shares]
    return _svg("Axis from 0 to 100 %", 18, parts, "track", is_decoration=True)


def _share(value: float) -> float:
    return round(100 * min(max(value, 0.0), 1.0), 3)


def _upright(share: float) -> Markup:
    return Markup('<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>').format(x=_share(share))


def _whisker(low: float, high: float, style: str) -> Markup:
    """Draw an interval as a line with end caps."""
    bar = Markup('<line class="whisker {style}" x1="{x1}%" x2="{x2}%" y1="50%" y2="50%"/>')
    end = Markup('<rect class="bar {style}" x="{x}%" y="50%" width="2.5" height="14" transform="translate(-1.25 -7)"/>')
    ends = [end.format(style=style, x=_share(bound)) for bound in (low, high)]
    return bar.format(style=style, x1=_share(low), x2=_share(high)) + Markup("").join(ends)


def mirror_histogram(title: str, bins: Histogram | None, upper_style: str, lower_style: str) -> Markup:
    """Draw two sets of lengths on one axis: the first as bars upwards, the second downwards.

    Bars are shares of their set, so that sets of different size can be compared.
    """
    if bins is None:
        return Markup('<p class="none">There are no lengths to draw.</p>')

    shares = [[one / max(sum(counts), 1) for one in counts] for _, counts in (bins.upper, bins.lower)]
    tallest = max(max(side) for side in shares) or 1.0
    parts = _bars(bins, bins.upper, shares[0], tallest, -1, upper_style)
    parts += _bars(bins, bins.lower, shares[1], tallest, 1, lower_style)
    parts.append(Markup('<line class="axis" x1="0" x2="100%" y1="{y}" y2="{y}"/>').format(y=_BAR_HEIGHT))
    axes = Axes((0, bins.edges[-1]), (0, 1), 2 * _BAR_HEIGHT)
    parts += [_step(axes.x(edge), count(edge), 2 * _BAR_HEIGHT) for edge in _steps(bins.edges[-1])]
    parts.append(_unit("tokens", 2 * _BAR_HEIGHT))
    return _svg(title, 2 * _BAR_HEIGHT, parts, "bars")


def _bars(
    bins: Histogram, side: tuple[str, tuple[int, ...]], shares: list[float], tallest: float, direction: int, style: str
) -> list[Markup]:
    """Draw one half of a mirrored histogram; ``direction`` is -1 for upwards and 1 for downwards."""
    bar = Markup(
        '<rect class="bar {style}" x="{x}%" width="{width}%" y="{y}" height="{height}"><title>{text}</title></rect>'
    )
    width = 100 / len(shares)
    bars = []
    for index, (share, rows) in enumerate(zip(shares, side[1], strict=True)):
        if not rows:
            continue

        height = max(1.5, round((_BAR_HEIGHT - 2) * share / tallest, 2))
        text = f"{side[0]}, {count(bins.edges[index])} to {count(bins.edges[index + 1] - 1)} tokens: {count(rows)}"
        bars.append(
            bar.format(
                style=style,
                x=round(index * width + width * 0.06, 3),
                width=round(width * 0.88, 3),
                y=round(_BAR_HEIGHT - height - 1, 2) if direction < 0 else _BAR_HEIGHT + 1,
                height=height,
                text=text,
            )
        )
    return bars


def share_bar(share: float, style: str) -> Markup:
    """Draw a share as a small bar for a table's cell; the number stands beside it as text."""
    bar = Markup('<rect class="bar {style}" x="0" y="2" height="8" width="{width}%"/>')
    return _svg("", 12, [bar.format(style=style, width=max(_share(share), 0.5))], "cell", is_decoration=True)


def _svg(title: str, height: float | str, parts: Sequence[Markup], kind: str, is_decoration: bool = False) -> Markup:
    """Wrap a chart's parts; a decoration is hidden from screen readers, any other chart has its title as label."""
    label = Markup('aria-hidden="true"') if is_decoration else Markup('role="img" aria-label="{}"').format(title)
    return Markup('<svg class="chart {kind}" width="100%" height="{height}" {label}>{body}</svg>').format(
        kind=kind, height=height, label=label, body=Markup("").join(parts)
    )
