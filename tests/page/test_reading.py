from __future__ import annotations

import dataclasses
import json

import pytest

from tasks.core.errors import ArtifactError
from tasks.page.readers.json_node import Node, read_columns, read_lines, read_node


def _node(**values) -> Node:
    return Node(values, "results/winrate/metrics.json", "winrate")


def test_a_missing_key_is_named_with_its_file_and_the_stage_to_run():
    with pytest.raises(
        ArtifactError, match=r"`win_rate` is missing in results/winrate/metrics.json.*dvc repro -f winrate"
    ):
        _node().number("win_rate")


def test_a_missing_key_of_a_nested_object_is_named_with_the_way_to_it():
    with pytest.raises(ArtifactError, match=r"`low` is missing in results/winrate/metrics.json → control"):
        _node(control={"win_rate": 0.5}).node("control").number("low")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.5", True, [1]])
def test_what_is_not_a_finite_number_is_refused(value):
    with pytest.raises(ArtifactError, match=r"`x` is .* not a finite number"):
        _node(x=value).optional("x")


def test_null_is_allowed_only_where_a_value_may_be_absent():
    assert _node(x=None).optional("x") is None
    with pytest.raises(ArtifactError, match="`x` is null"):
        _node(x=None).number("x")


@pytest.mark.parametrize("value", [-1, 2.5])
def test_what_is_not_a_count_is_refused(value):
    with pytest.raises(ArtifactError, match="not a count"):
        _node(x=value).count("x")


def test_a_broken_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ArtifactError, match=r"line 2 of .*scores.jsonl is not JSON"):
        list(read_lines(path, "winrate"))


def test_a_line_that_holds_no_object_is_refused(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text("[1]\n")
    with pytest.raises(ArtifactError, match=r"scores.jsonl:1 holds list, not an object"):
        list(read_lines(path, "winrate"))


def test_a_file_that_holds_no_object_is_refused(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps([1]))
    with pytest.raises(ArtifactError, match="holds list, not an object"):
        read_node(tmp_path / "metrics.json", "train")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("step\n1\n", "`loss` is missing in .*steps.csv:2"),
        ("step,loss\n1,nan\n", "`loss` is nan"),
        ("step,loss\n1,0.5\n2,much\n", "`loss` is 'much', not a finite number, in .*steps.csv:3"),
        ("step,loss\n1,\n", "`loss` is null"),
    ],
)
def test_a_curve_with_a_missing_column_or_a_cell_that_is_no_number_is_refused(tmp_path, text, told):
    path = tmp_path / "steps.csv"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=told):
        read_columns(path, ("step", "loss"), "train")


@dataclasses.dataclass(frozen=True)
class Measured:
    prompts: int
    rate: float
    share: float | None
    judge: str
    name: str


def test_a_dataclass_is_filled_from_the_keys_of_its_fields_names_and_each_is_checked_as_its_type_says():
    values = {"prompts": 3, "rate": 0.5, "share": None, "judge": "rules"}
    assert _node(**values).fill(Measured, name="n") == Measured(3, 0.5, None, "rules", "n")
    for key, wrong in {"prompts": 0.5, "rate": None, "share": "x", "judge": 1}.items():
        with pytest.raises(ArtifactError, match=f"`{key}` is "):
            _node(**{**values, key: wrong}).fill(Measured, name="n")
    with pytest.raises(ArtifactError, match="`prompts` is missing"):
        _node().fill(Measured, name="n")
