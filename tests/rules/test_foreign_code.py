"""No code of a model's folder is ever run, and nobody at a terminal is asked whether it may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.rules.source import ROOT, modules, tree_of

LOADERS = {"from_pretrained", "from_config", "resolve_trust_remote_code", "get_class_from_dynamic_module"}
OURS = {"PeftModel", "PeftConfig"}  # they load tensors and JSON into a model that is there
ASKS = {"input", "getpass.getpass", "sys.stdin.read", "sys.stdin.readline", "click.confirm", "click.prompt"}


def calls(*folders: str) -> Iterator[tuple[Path, ast.Call]]:
    for path in modules(*folders):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call):
                yield path.relative_to(ROOT), node


def is_refusing(call: ast.Call) -> bool:
    """Tell whether a call says `trust_remote_code=False` itself."""
    values = [word.value for word in call.keywords if word.arg == "trust_remote_code"]
    return [value.value for value in values if isinstance(value, ast.Constant)] == [False]


def loads(tree_calls: Iterator[tuple[Path, ast.Call]]) -> list[tuple[str, ast.Call]]:
    """Return the calls of transformers that could run a model's own code, each with its place."""
    return [
        (f"{path}:{call.lineno}", call)
        for path, call in tree_calls
        if isinstance(call.func, ast.Attribute) and call.func.attr in LOADERS
        if ast.unparse(call.func.value) not in OURS
    ]


def test_whatever_loads_a_model_refuses_its_code_in_so_many_words() -> None:
    found = loads(calls("tasks", "flows"))
    assert len(found) >= 8, "the rule sees the calls"
    assert [place for place, call in found if not is_refusing(call)] == []


def test_the_rule_sees_a_call_that_leaves_it_open() -> None:
    code = "A.from_pretrained(x)\nA.from_config(x, trust_remote_code=asked)\nPeftModel.from_pretrained(m, x)"
    some = ((Path("a.py"), node) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call))
    assert [place for place, call in loads(some) if not is_refusing(call)] == ["a.py:1", "a.py:2"]


def test_nothing_asks_a_terminal() -> None:
    assert [f"{path}:{call.lineno}" for path, call in calls("tasks", "flows") if ast.unparse(call.func) in ASKS] == []
