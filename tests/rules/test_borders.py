"""The rooms keep their borders, modules import and say what they are, and files stay readable."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rules import closure
from tests.rules.source import ROOMS, ROOT, STAGES, TORCH_FREE, dotted, imports, modules, tree_of

LONGEST_FUNCTION = 60
LONGEST_FILE = 400
ALLOWED_BETWEEN_ROOMS = {"dpo": {"tasks.pairs.cache"}}
HEART_NEEDS_ONLY = {"torch", "transformers", "peft", "accelerate", "safetensors", "numpy", "tqdm"}


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in ("tasks", "flows")}


def lies_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def python(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True)


def test_the_hall_imports_nothing_of_ours() -> None:
    for path in modules("tasks/core"):
        strangers = {name for name in ours(path) if name != "tasks" and not lies_in(name, "tasks.core")}
        assert strangers == set(), f"{path.relative_to(ROOT)} imports {strangers}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_hall_and_itself(room: str) -> None:
    allowed = ("tasks.core", f"tasks.{room}", *ALLOWED_BETWEEN_ROOMS.get(room, ()))
    for path in modules(f"tasks/{room}"):
        strangers = {
            name
            for name in ours(path)
            if name not in ("tasks", "tasks.pairs") and not any(lies_in(name, package) for package in allowed)
        }
        assert strangers == set(), f"{path.relative_to(ROOT)} imports {strangers}"


def test_a_stage_imports_no_other_stage() -> None:
    for stage in STAGES:
        path = ROOT / "tasks" / f"{stage}.py"
        others = {f"tasks.{other}" for other in STAGES} - {f"tasks.{stage}"}
        strangers = {name for name in imports(path) if any(lies_in(name, other) for other in others)}
        assert strangers == set(), f"tasks/{stage}.py imports {strangers}"


def test_prefect_is_imported_in_flows_alone_and_flows_by_nobody() -> None:
    for path in modules("tasks"):
        strangers = {name for name in imports(path) if name.split(".")[0] in ("prefect", "flows")}
        assert strangers == set(), f"{path.relative_to(ROOT)} imports {strangers}"


def test_the_flows_touch_no_room_only_the_hall() -> None:
    for path in modules("flows"):
        strangers = {name for name in ours(path) if lies_in(name, "tasks") and not lies_in(name, "tasks.core")}
        assert strangers - {"tasks"} == set(), f"{path.relative_to(ROOT)} imports {strangers}"
    assert not (ROOT / "flows" / "tasks.py").exists(), "Prefect's word `tasks` would hide ours"


def test_the_heart_needs_only_what_a_training_machine_has() -> None:
    for path in modules("tasks/dpo"):
        needed = {name.split(".")[0] for name in imports(path)} - {"tasks"} - set(sys.stdlib_module_names)
        assert needed <= HEART_NEEDS_ONLY, f"{path.relative_to(ROOT)} imports {needed - HEART_NEEDS_ONLY}"
    around = {dep for path in modules("tasks/dpo") for dep in closure.used_by(path, ROOT) if dep.suffix == ".py"}
    for path in around:
        needed = {name.split(".")[0] for name in imports(path, only_top_level=True)} - {"tasks"}
        assert needed - set(sys.stdlib_module_names) <= HEART_NEEDS_ONLY, f"{path.relative_to(ROOT)} at import"


def test_every_module_imports() -> None:
    for path in modules("tasks", "flows"):
        if path.name != "__main__.py":
            importlib.import_module(dotted(path))


@pytest.mark.parametrize("stage", TORCH_FREE)
def test_a_stage_that_needs_no_torch_starts_without_it(stage: str) -> None:
    script = """
import importlib, sys
importlib.import_module(sys.argv[1])
print([name for name in sys.argv[2:] if name in sys.modules])
"""
    done = python(script, f"tasks.{stage}", "torch", "transformers", "datasets", "evaluate", "prefect")
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stdout + done.stderr


def test_every_module_class_and_function_that_others_use_says_what_it_is() -> None:
    silent = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in modules("tasks", "flows")
        for name, node in _public(path)
        if not (ast.get_docstring(node) or "").strip()
    ]
    assert silent == []


def _public(path: Path) -> Iterator[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef]]:
    yield "module", tree_of(path)
    for node in tree_of(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node


def test_packages_hold_a_docstring_and_nothing_else() -> None:
    for path in modules("tasks", "flows"):
        if path.name == "__init__.py":
            assert len(tree_of(path).body) == 1, f"{path.relative_to(ROOT)} holds code"


def test_no_module_is_named_like_a_standard_module_a_dependency_or_a_drawer() -> None:
    taken = (
        set(sys.stdlib_module_names)
        | set(importlib.metadata.packages_distributions())
        | {
            "utils",
            "common",
            "helpers",
            "misc",
        }
    )
    names = {path.stem: path for path in modules("tasks", "flows") if not path.stem.startswith("__")}
    names |= {path.parent.name: path for path in modules("tasks", "flows") if path.name == "__init__.py"}
    clashes = {name: path for name, path in names.items() if name in taken - {"tasks", "flows"}}
    assert clashes == {}


def test_functions_stay_short_enough_to_be_read() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {length} lines"
        for path in modules("tasks", "flows")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]
    assert long == []


def test_files_stay_short_enough_to_be_held_in_the_head() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules("tasks", "flows")}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LONGEST_FILE} == {}
