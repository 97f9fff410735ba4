from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.page import charts
from tasks.page.bins import histogram, round_step, spread, ticks
from tasks.page.measured import Rate
from tasks.page.readers.read_training import thin


def _parsed(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(f'<div xmlns="http://www.w3.org/1999/xhtml">{markup}</div>')


def _all(markup: str, tag: str) -> list[ElementTree.Element]:
    return [element for element in _parsed(markup).iter() if element.tag.endswith("}" + tag)]


def test_round_steps_are_one_two_two_and_a_half_or_five_times_a_power_of_ten():
    assert [round_step(value) for value in (1.0, 1.1, 2.2, 3, 7, 0.021)] == [1.0, 2.0, 2.5, 5.0, 10.0, 0.025]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_enclose_any_range_and_are_few(a, b):
    low, high = min(a, b), max(a, b)
    found = ticks(low, high)
    slack = 1e-6 * max(1.0, abs(low), abs(high))
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 7


def test_a_curve_runs_from_the_lower_left_to_the_upper_right_corner():
    drawn = charts.line_chart("Up", [charts.Series("up", ((0, 0.0), (10, 1.0)), "policy", has_dots=True)])
    path = _all(drawn, "path")[0].attrib["d"]
    assert path == "M0.0 196.0L1000.0 0.0"
    dots = _all(drawn, "circle")
    assert [(dot.attrib["cx"], dot.attrib["cy"]) for dot in dots] == [("0.0%", "196.0"), ("100.0%", "0.0")]


def test_a_chart_tells_a_screen_reader_where_each_curve_starts_and_ends():
    drawn = charts.line_chart("Loss", [charts.Series("held out", ((0, 0.69), (10, 0.2)), "policy")])
    assert _all(drawn, "svg")[0].attrib["aria-label"] == "Loss: held out 0.69 → 0.20"


def test_labels_at_the_ends_of_close_curves_are_pushed_apart_and_stay_inside():
    series = [charts.Series(f"s{i}", ((0, 0.0), (1, 0.001 * i)), "policy") for i in range(4)]
    series.append(charts.Series("far", ((0, 0.0), (1, 1.0)), "rejected"))
    labels = [text for text in _all(charts.line_chart("x", series), "text") if text.attrib["class"].startswith("name")]
    heights = sorted(float(text.attrib["y"]) for text in labels)
    assert len(labels) == 5
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 15
    assert heights[-1] <= 196


@pytest.mark.parametrize("points", [((0, 0.5),), ((0, 0.5), (1, 0.5)), ((3, -2.0),), ((0, 0.0),)])
def test_a_single_point_or_a_flat_curve_is_drawn(points):
    drawn = charts.line_chart("flat", [charts.Series("flat", points, "policy", has_dots=True)])
    assert len(_all(drawn, "circle")) == len(points)
    assert not re.search(r"nan|inf", drawn)


def test_a_chart_without_points_says_so():
    assert "No points" in charts.line_chart("empty", [charts.Series("none", (), "policy")])


def test_an_interval_is_drawn_where_its_numbers_say():
    drawn = charts.interval_track("Win rate", Rate(0.9, 0.8, 0.95))
    assert _all(drawn, "circle")[0].attrib["cx"] == "90.0%"
    bar = next(line for line in _all(drawn, "line") if line.attrib["class"] == "whisker policy")
    assert (bar.attrib["x1"], bar.attrib["x2"]) == ("80.0%", "95.0%")
    assert any(line.attrib["class"] == "half" and line.attrib["x1"] == "50%" for line in _all(drawn, "line"))


def test_hostile_names_are_escaped_in_charts():
    name = '"><script>alert(1)</script>'
    for drawn in (
        charts.line_chart(name, [charts.Series(name, ((0, 0.0), (1, 1.0)), "policy", has_dots=True)]),
        charts.interval_track(name, Rate(0.5, 0.4, 0.6)),
        charts.draw_histogram(name, histogram((name, np.array([3])), (name, np.array([4]))), "policy", "reference"),
    ):
        assert "<script" not in drawn
        _parsed(drawn)


def test_each_length_is_counted_once_and_far_ones_go_into_the_last_bin():
    usual = np.arange(1, 200)
    bins = histogram(("chosen", np.append(usual, 100_000)), ("rejected", usual))
    assert (sum(bins.upper[1]), sum(bins.lower[1])) == (200, 199)
    assert bins.has_overflow
    assert bins.edges[-1] < 300
    assert len(bins.edges) <= 26


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 5000), max_size=50).map(lambda found: np.array(found, dtype=np.int32)),
    st.lists(st.integers(0, 5000), min_size=1, max_size=50).map(lambda found: np.array(found, dtype=np.int32)),
)
def test_no_length_is_lost_from_a_histogram(upper, lower):
    bins = histogram(("a", upper), ("b", lower))
    assert (sum(bins.upper[1]), sum(bins.lower[1])) == (len(upper), len(lower))
    _parsed(charts.draw_histogram("x", bins, "policy", "reference"))


def test_quantiles_of_lengths():
    found = spread("chosen", np.arange(1, 101))
    assert (found.median, found.p95, found.longest) == (50.5, 95.0, 100)


def test_a_long_curve_is_thinned_to_means_that_keep_its_end():
    points = tuple((float(i), float(i % 2)) for i in range(1000))
    found = thin(points, 100)
    assert len(found) == 100
    assert found[-1][0] == 999
    assert {value for _, value in found} == {0.5}
    assert thin(points[:7], 100) == points[:7]
