"""The curves' standalone files: documents that need nothing of the page that shows them."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tasks.page.curve_files import STYLE, curve_charts, standalone, write_curves
from tasks.page.facts import TrainingFacts
from tasks.page.readers.read_training import read_training
from tasks.page.webpage import FOLDER
from tests.page.samples import make_folders

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> TrainingFacts:
    folders = make_folders(tmp_path_factory.mktemp("curves"), prompts=20, pairs=60)
    return read_training(folders.train_results)


def test_each_file_is_an_svg_document_of_fixed_size_with_its_own_style(training: TrainingFacts) -> None:
    for chart in curve_charts(training):
        document = ElementTree.fromstring(standalone(chart))
        assert document.tag == f"{SVG}svg"
        assert not document.attrib["width"].endswith("%")
        assert document.findtext(f"{SVG}title") == chart.title
        assert ".curve { fill: none; stroke: currentColor;" in (document.findtext(f"{SVG}style") or "")


def test_every_class_of_a_curve_has_a_colour_of_its_own_file(training: TrainingFacts) -> None:
    css = STYLE.read_text(encoding="utf-8")
    assert "var(" not in css
    for chart in curve_charts(training):
        for names in re.findall(r'class="(?:curve|dot|name) ([a-z ]+)"', standalone(chart)):
            assert f".{names.split()[0]}" in css


def test_the_colours_are_those_of_the_page_by_day(training: TrainingFacts) -> None:
    by_day = re.findall(r":root \{(.*?)\}", (FOLDER / "page.css").read_text(encoding="utf-8"), flags=re.DOTALL)[0]
    assert set(re.findall(r"#[0-9a-f]{6}", STYLE.read_text(encoding="utf-8"))) <= set(
        re.findall(r"#[0-9a-f]{6}", by_day)
    )


def test_a_chart_without_points_has_no_file(training: TrainingFacts, tmp_path: Path) -> None:
    nothing = dict.fromkeys(training.train_curves, ())
    write_curves(tmp_path, dataclasses.replace(training, train_curves=nothing, eval_curves=nothing))
    assert list(tmp_path.iterdir()) == []
    write_curves(tmp_path, training)
    assert {path.name for path in tmp_path.iterdir()} == {"loss.svg", "accuracy.svg", "margin.svg", "logps.svg"}
