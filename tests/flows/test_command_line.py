"""A flow's command: its arguments are the flow's parameters, with their types, defaults and descriptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.pipeline import pipeline
from flows.prefect_ui import command_line
from flows.retrain import retrain
from flows.rollback import rollback


def test_values_have_the_types_and_the_defaults_of_the_parameters() -> None:
    parser = command_line.parser(pipeline, "--workspace", "--force", "--opponent", "--timeout-minutes")
    absent = {"workspace": Path(), "force": False, "opponent": None, "stage_timeout_minutes": None}
    assert vars(parser.parse_args([])) == absent
    given = parser.parse_args(["--workspace", "a/b", "--force", "--opponent", "demo@v1", "--timeout-minutes", "1.5"])
    assert vars(given) == {
        "workspace": Path("a/b"),
        "force": True,
        "opponent": "demo@v1",
        "stage_timeout_minutes": 1.5,
    }


def test_a_switch_is_off_unless_it_is_given_though_the_flow_has_it_on() -> None:
    parser = command_line.parser(retrain, "--push", "--minimum-new-pairs")
    assert vars(parser.parse_args([])) == {"push": False, "minimum_new_pairs": 100}


def test_a_parameter_without_a_default_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    parser = command_line.parser(rollback, "name", "--reason")
    assert vars(parser.parse_args(["demo", "--reason", "why"])) == {"name": "demo", "reason": "why"}
    with pytest.raises(SystemExit):
        parser.parse_args(["demo"])
    assert "the following arguments are required: --reason" in capsys.readouterr().err


def test_the_help_is_the_docstring_of_the_flow() -> None:
    text = " ".join(command_line.parser(rollback, "name", "--reason").format_help().split())
    assert "python -m flows.rollback" in text
    assert "Move the alias `champion` back" in text
    assert "Why; the log keeps it." in text
