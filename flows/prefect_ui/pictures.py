"""The curves of a training as small SVG pictures that stand alone, for a page that knows none of our style sheets."""

from __future__ import annotations

import base64
import csv
import dataclasses
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 560, 220, 46  # px
COLOURS = ("#2563eb", "#d97706")
_MOST_POINTS = 400

Points = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a picture: its name, and (step, value) in ascending order."""

    name: str
    points: Points


def curves(results: Path, column: str) -> list[Curve]:
    """Return `column` over the steps of training and over the held-out evaluations, those that were written."""
    found = []
    for name, file in (("training", "steps.csv"), ("held out", "evals.csv")):
        if points := _read(results / file, column):
            found.append(Curve(name, points))
    return found


def picture(title: str, lines: Iterable[Curve]) -> str:
    """Return an SVG of the curves over optimizer steps; each says its last value."""
    drawn = list(lines)
    xs = [x for one in drawn for x, _ in one.points]
    ys = [y for one in drawn for _, y in one.points]
    low, high = min(ys), max(ys)
    across, up = max(max(xs), 1.0), (high - low) or 1.0

    def place(x: float, y: float) -> str:
        right, down = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
        return f"{MARGIN + right * x / across:.1f},{MARGIN + down * (high - y) / up:.1f}"

    parts = [_text(MARGIN, 20, title, "#111827", 15), _text(MARGIN, HEIGHT - 12, f"step 0 to {max(xs):.0f}")]
    parts += [_text(4, MARGIN + 4, f"{high:.3g}"), _text(4, HEIGHT - MARGIN + 4, f"{low:.3g}")]
    edge = f"M{place(0, high)}L{place(0, low)}L{place(across, low)}"
    parts.append(f'<path d="{edge}" fill="none" stroke="#d1d5db"/>')
    for i, (one, colour) in enumerate(zip(drawn, COLOURS, strict=False)):
        path = " ".join(place(x, y) for x, y in one.points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(MARGIN + 200 * (i + 1), 20, f"{one.name} {one.points[-1][1]:.3f}", colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif">'
    return f'{head}<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>'


def as_address(svg: str) -> str:
    """Return an SVG as an address that holds it, for where only an address of a picture is taken."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _read(path: Path, column: str) -> Points:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = [(float(row["step"]), float(row[column])) for row in csv.DictReader(stream)]
    except (OSError, ValueError, KeyError):
        return ()
    return rows[:: max(1, len(rows) // _MOST_POINTS)]


def _text(x: float, y: float, words: str, colour: str = "#6b7280", size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}">{escape(words)}</text>'
