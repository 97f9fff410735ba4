"""Charts as inline SVG, drawn by hand: lines, intervals, histograms.

Horizontal positions are percentages and vertical positions are pixels, so a chart fills any width while its text keeps
its size; only curves are stretched, with strokes that do not scale. Colours are CSS classes: the page's style sheet
defines them for its light and dark themes, and curve.css for standalone files.

Every element is made by :func:`_tag`, which escapes what stands in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from markupsafe import Markup

from tasks.page.bins import ticks
from tasks.page.measured import Curve, Histogram, Rate
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

    parts: list[Markup] = []
    for value in marks_y:
        y = axes.y(value)
        parts.append(_tag("line", class_="grid", x1=0, x2="100%", y1=y, y2=y))
        parts.append(_tag("text", label(value), class_="tick", x=0, dx=-8, y=y, dy=4, text_anchor="end"))
    parts += _steps(axes, "step")
    if mark:
        y = axes.y(mark[0])
        parts.append(_tag("line", class_="half", x1=0, x2="100%", y1=y, y2=y))
        parts.append(_tag("text", mark[1], class_="note", x="100%", dx=-4, y=y, dy=-5, text_anchor="end"))
    parts += [_curve(one, axes) for one in drawn]
    parts += [dot for one in drawn if one.has_dots for dot in _dots(one, axes, show)]
    parts += _end_labels(drawn, axes)

    summary = "; ".join(f"{one.name} {show(one.points[0][1])} → {show(one.points[-1][1])}" for one in drawn if one.name)
    return _svg(f"{title}: {summary}", LINE_HEIGHT, parts, "lines")


def _steps(axes: Axes, unit: str) -> list[Markup]:
    """Draw the round numbers that fit on the horizontal axis, and its unit behind its end."""
    last, y = axes.across[1], axes.height + 18
    steps = [value for value in ticks(0, max(last, 1), 5) if value <= last and value == int(value)]
    labels = [_tag("text", count(x), class_="tick", x=f"{axes.x(x)}%", y=y, text_anchor="middle") for x in steps]
    return [*labels, _tag("text", unit, class_="tick", x="100%", dx=22, y=y)]


def _tick_format(values: Sequence[float]) -> Callable[[float], str]:
    """Return a format with just enough digits to distinguish these round numbers."""
    texts = [f"{value:.6f}".rstrip("0") for value in values]
    digits = max(len(text) - text.index(".") - 1 for text in texts)
    return lambda value: number(value, digits)


def _curve(one: Series, axes: Axes) -> Markup:
    """Draw a curve in a nested SVG that is stretched over the width of the plot."""
    points = [(round(axes.x(x) * _ACROSS / 100, 1), axes.y(y)) for x, y in one.points]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    drawn = _tag("path", class_=f"curve {one.style}", d=path, vector_effect="non-scaling-stroke")
    box = f"0 0 {_ACROSS} {LINE_HEIGHT}"
    return _tag("svg", drawn, width="100%", height=LINE_HEIGHT, viewBox=box, preserveAspectRatio="none")


def _dots(one: Series, axes: Axes, show: Callable[[float], str]) -> list[Markup]:
    """Mark each point of a curve, with its value on hover."""
    radius = 3.5 if len(one.points) <= 40 else 2
    dots = []
    for x, y in one.points:
        text = _tag("title", f"{one.name}, step {count(x)}: {show(y)}")
        dots.append(_tag("circle", text, class_=f"dot {one.style}", cx=f"{axes.x(x)}%", cy=axes.y(y), r=radius))
    return dots


def _end_labels(drawn: Sequence[Series], axes: Axes) -> list[Markup]:
    """Draw each curve's name at its end; labels of curves that end close together are pushed apart."""
    named = sorted((axes.y(one.points[-1][1]), index) for index, one in enumerate(drawn) if one.name)
    places: list[float] = []
    for y, _ in named:
        places.append(max(y, places[-1] + _LABEL_GAP) if places else y)
    over = max(0.0, (places[-1] if places else 0.0) - LINE_HEIGHT)

    labels = []
    for place, (_, index) in zip(places, named, strict=True):
        one, y = drawn[index], round(place - over, 1)
        labels.append(_tag("text", one.name, class_=f"name {one.style}", x="100%", dx=9, y=y, dy=4))
    return labels


def interval_track(title: str, rate: Rate, style: str = "policy") -> Markup:
    """Draw one rate in [0, 1] with its interval, a line with end caps, and the line at one half.

    It is as high as its row, so that the lines of all rows join.
    """
    grid = [_share(share) for share in (0.0, 0.25, 0.75, 1.0)]
    parts = [_tag("line", class_="grid", x1=x, x2=x, y1=0, y2="100%") for x in grid]
    parts.append(_tag("line", class_="half", x1="50%", x2="50%", y1=0, y2="100%"))

    ends = [_share(rate.low), _share(rate.high)]
    parts.append(_tag("line", class_=f"whisker {style}", x1=ends[0], x2=ends[1], y1="50%", y2="50%"))
    parts += [
        _tag("rect", class_=f"bar {style}", x=x, y="50%", width=2.5, height=14, transform="translate(-1.25 -7)")
        for x in ends
    ]
    parts.append(_tag("circle", class_=f"dot {style}", cx=_share(rate.value), cy="50%", r=6))
    return _svg(f"{title}: {percent(rate.value)}, interval {interval(rate)}", "100%", parts, "track")


def interval_axis() -> Markup:
    """Draw the numbers under a column of interval tracks."""
    shares = ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end"))
    parts = [
        _tag("text", percent(share, 0), class_="tick", x=_share(share), y=13, text_anchor=anchor)
        for share, anchor in shares
    ]
    return _svg("", 18, parts, "track", is_decoration=True)


def _share(value: float) -> str:
    """Return a share as a length in percent, cut to [0, 1]."""
    return f"{round(100 * min(max(value, 0.0), 1.0), 3)}%"


def draw_histogram(title: str, bins: Histogram, *styles: str) -> Markup:
    """Draw one set of numbers as bars upwards, and a second one, where there is one, downwards on the same axis.

    Bins are drawn equally wide. Bars are shares of their set, so that sets of different size can be compared.
    """
    sides = [side for side in (bins.upper, bins.lower) if side]
    shares = [[one / max(sum(counts), 1) for one in counts] for _, counts in sides]
    tallest = max(max(side) for side in shares) or 1.0
    height = len(sides) * _BAR_HEIGHT

    parts: list[Markup] = []
    for side, heights, direction, style in zip(sides, shares, (-1, 1), styles, strict=False):
        parts += _bars(bins, side, heights, tallest, direction, style)
    parts.append(_tag("line", class_="axis", x1=0, x2="100%", y1=_BAR_HEIGHT, y2=_BAR_HEIGHT))
    label = _edge_format(bins)
    for index in range(0, len(bins.edges), max(1, len(bins.edges) // 6)):
        x = f"{round(100 * index / (len(bins.edges) - 1), 3)}%"
        parts.append(_tag("text", label(bins.edges[index]), class_="tick", x=x, y=height + 18, text_anchor="middle"))
    return _svg(title, height, parts, "bars")


def _edge_format(bins: Histogram) -> Callable[[float], str]:
    return count if all(edge == int(edge) for edge in bins.edges) else lambda edge: number(edge, 2)


def _bars(
    bins: Histogram, side: tuple[str, tuple[int, ...]], shares: list[float], tallest: float, direction: int, style: str
) -> list[Markup]:
    """Draw one half of a mirrored histogram; ``direction`` is -1 for upwards and 1 for downwards."""
    width, label = 100 / len(shares), _edge_format(bins)
    bars = []
    for index, (share, rows) in enumerate(zip(shares, side[1], strict=True)):
        if not rows:
            continue

        height = max(1.5, round((_BAR_HEIGHT - 2) * share / tallest, 2))
        y = round(_BAR_HEIGHT - height - 1, 2) if direction < 0 else _BAR_HEIGHT + 1
        across = {"x": f"{round(index * width + width * 0.06, 3)}%", "width": f"{round(width * 0.88, 3)}%"}
        text = f"{side[0]}, {bins.unit} {label(bins.edges[index])} to {label(bins.edges[index + 1])}: {count(rows)}"
        bars.append(_tag("rect", _tag("title", text), class_=f"bar {style}", **across, y=y, height=height))
    return bars


def share_bar(share: float) -> Markup:
    """Draw a share as a small bar for a table's cell; the number stands beside it as text."""
    bar = _tag("rect", class_="bar ", x=0, y=2, height=8, width=_share(max(share, 0.005)))
    return _svg("", 12, [bar], "cell", is_decoration=True)


def _svg(title: str, height: float | str, parts: Sequence[Markup], kind: str, is_decoration: bool = False) -> Markup:
    """Wrap a chart's parts; a decoration is hidden from screen readers, any other chart has its title as label."""
    label = {"aria_hidden": "true"} if is_decoration else {"role": "img", "aria_label": title}
    return _tag("svg", Markup("").join(parts), class_=f"chart {kind}", width="100%", height=height, **label)


def _tag(name: str, body: str | None = None, **attributes: float | str) -> Markup:
    """Return an element, escaped; for `class` and `text-anchor` write `class_` and `text_anchor`."""
    pairs = [Markup(' {}="{}"').format(key.strip("_").replace("_", "-"), value) for key, value in attributes.items()]
    end = Markup("/>") if body is None else Markup(">{}</{}>").format(body, name)
    return Markup("<{}{}{}").format(name, Markup("").join(pairs), end)
