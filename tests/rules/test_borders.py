"""The rooms keep their borders, modules import and say what they are, and files stay readable."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.rules import closure
from tests.rules.source import ROOT, STAGES, TORCH_FREE, dotted, imports, modules, tree_of

LONGEST_FUNCTION = 53
LONGEST_FILE = 400
LONGEST_WITHOUT_A_MARK = 20  # lines of a function whose steps nothing sets apart
VAGUE = {"found", "told", "own", "mine"}  # a noun says what it is
# What a room may import, besides itself and what tells. Rooms are folders. `flows` may import core, hub, what tells.
MAY_IMPORT = {
    "core": (),
    "telemetry": ("core",),
    "launch": ("core",),
    "object_store": ("core",),
    "hub": ("core",),
    "rowstore": ("core", "object_store"),
    "upkeep": ("core", "rowstore"),
    "demo/world": ("core",),
    "demo/model": ("core", "demo/world"),
    "demo/preferences": ("core", "demo/world"),
    "pinning": ("core", "hub"),
    "pairs/record": ("core",),
    "pairs/tokens": ("core",),
    "pairs/raw": ("core", "pairs/record"),
    "pairs/forms": ("core", "pairs/record", "pairs/raw"),
    "pairs/hygiene": ("core", "pairs/record"),
    "pairs/ingestion": ("core", "hub", "object_store", "pairs/record", "pairs/raw", "pairs/forms", "pairs/hygiene"),
    "pairs/encoding": ("core", "pairs/record", "pairs/tokens", "rowstore"),
    "pairs/prompts": ("core", "pairs/record", "pairs/raw", "pairs/ingestion", "pairs/encoding"),
    "dpo/model": ("core",),
    "dpo/objective": ("core",),
    "dpo/scoring": ("core", "pairs/tokens", "dpo/model"),
    "dpo/generation": ("core", "pairs/tokens", "dpo/model", "dpo/scoring"),
    "dpo/capacity": ("core", "pairs/tokens", "dpo/model", "dpo/scoring"),
    "dpo/dataset": ("core", "pairs/tokens"),
    "dpo/reference": ("core", "rowstore", "pairs/tokens", "dpo/model", "dpo/scoring", "dpo/capacity", "dpo/dataset"),
    "dpo/telemetry": ("core", "dpo/capacity"),
    "dpo/training": (
        *("core", "pairs/tokens", "dpo/model", "dpo/objective", "dpo/scoring", "dpo/capacity", "dpo/dataset"),
        "dpo/telemetry",
    ),
    "estimation": ("core",),
    "harness": ("core",),
    "judges/protocol": ("core",),
    "judges/rules": ("core", "judges/protocol"),
    "judges/games": ("core", "judges/protocol"),
    "judges/models": (
        *("core", "rowstore", "hub", "pinning", "pairs/record", "pairs/tokens", "pairs/encoding", "dpo/model"),
        "judges/protocol",
    ),
    "judges/llm": ("core", "judges/protocol", "judges/games"),
    "judges/qualification": (
        *("core", "estimation", "pairs/record", "pairs/ingestion", "judges/protocol", "judges/rules", "judges/games"),
    ),
    "judges": ("core", "estimation"),
    "judges/evidence": (
        *("core", "estimation", "judges", "judges/protocol", "judges/rules", "judges/games", "judges/qualification"),
    ),
    "judges/choice": (
        *(
            "core",
            "estimation",
            "judges/protocol",
            "judges/rules",
            "judges/games",
            "judges/llm",
            "judges/qualification",
            "judges/evidence",
            "judges/models",
        ),
    ),
    "page": ("core",),
    "page/readers": ("core", "page"),
    "registry/stores": ("core", "object_store"),
    "registry/log": ("core", "registry/stores"),
    "registry/versions": ("core", "registry/stores", "registry/log"),
    "registry/gate": ("core", "estimation", "registry/log"),
    "registry/release": ("core", "registry/stores", "registry/log", "registry/versions", "registry/gate"),
    "page/decision": ("core", "page", "page/readers", "registry/log", "registry/gate", "registry/release"),
    "registry/cli": (
        *("core", "hub", "estimation", "registry/stores", "registry/log", "registry/versions", "registry/gate"),
        "registry/release",
    ),
    "registry": ("core", "registry/log", "registry/release", "registry/cli"),
    "api": (
        *("core", "pairs/encoding", "pairs/ingestion", "dpo/model", "dpo/objective", "dpo/reference", "dpo/training"),
    ),
}
HEART_NEEDS_ONLY = {"torch", "transformers", "peft", "accelerate", "safetensors", "numpy", "tqdm"}


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in ("tasks", "flows")}


def lies_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def python(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True)


def room_of(path: Path) -> str:
    """The folder of a module, as MAY_IMPORT names it."""
    room = path.parent.relative_to(ROOT / "tasks").as_posix()
    return "judges" if room == "judges/win_rate" else room  # a metric of `evaluate` is a folder


def imported_rooms(path: Path) -> set[str]:
    """The rooms whose modules a module imports, its own left out."""
    files = {dep for dep in closure.used_by(path, ROOT) if dep.suffix == ".py" and dep.name != "__init__.py"}
    return {room_of(dep) for dep in files} - {room_of(path), "."}


def test_every_room_says_what_it_may_import_and_the_arrows_run_one_way() -> None:
    rooms = {room_of(path) for path in modules("tasks") if path.name != "__init__.py"} - {"."}
    assert set(MAY_IMPORT) == rooms
    for number, (room, allowed) in enumerate(MAY_IMPORT.items()):
        above = set(allowed) - set(list(MAY_IMPORT)[:number])
        assert above == set(), f"{room} may import {above}, which stands above it: that could close a circle"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    allowed = {*MAY_IMPORT[room], "telemetry"} - ({"telemetry"} if room == "core" else set())
    for path in (ROOT / "tasks" / room).glob("*.py"):
        strangers = imported_rooms(path) - allowed
        assert strangers == set(), f"{path.relative_to(ROOT)} imports {strangers}"


def test_no_two_rooms_have_a_file_of_the_same_name() -> None:
    names: dict[str, list[str]] = {}
    for path in modules("tasks", "flows"):
        if not path.stem.startswith("__"):
            names.setdefault(path.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in names.items() if len(paths) > 1} == {}


def test_no_circle_of_imports_anywhere() -> None:
    every = modules("tasks", "flows")
    waits_for = {path: {dep for dep in closure.used_by(path, ROOT) if dep in set(every)} - {path} for path in every}
    while free := [path for path, deps in waits_for.items() if not deps & waits_for.keys()]:
        for path in free:
            del waits_for[path]
    assert sorted(path.relative_to(ROOT).as_posix() for path in waits_for) == []


def test_a_stage_imports_no_other_stage() -> None:
    for stage in STAGES:
        path = ROOT / "tasks" / f"{stage}.py"
        others = {f"tasks.{other}" for other in STAGES} - {f"tasks.{stage}"}
        strangers = {name for name in imports(path) if any(lies_in(name, other) for other in others)}
        assert strangers == set(), f"tasks/{stage}.py imports {strangers}"


def test_prefect_is_imported_in_flows_alone_and_flows_by_nobody() -> None:
    reads_a_block = ROOT / "tasks/judges/llm/api_key.py"  # of Prefect, and only where the key of a judge lies in one
    for path in [path for path in modules("tasks") if path != reads_a_block]:
        strangers = {name for name in imports(path) if name.split(".")[0] in ("prefect", "flows")}
        assert strangers == set(), f"{path.relative_to(ROOT)} imports {strangers}"


def test_the_flows_import_only_core_the_hub_and_what_tells() -> None:
    for path in modules("flows"):
        names = {name for name in ours(path) if lies_in(name, "tasks")} - {"tasks"}
        allowed = ("tasks.core", "tasks.telemetry", "tasks.hub")
        strangers = {name for name in names if not any(lies_in(name, room) for room in allowed)}
        assert strangers == set(), f"{path.relative_to(ROOT)} imports {strangers}"
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
    # the first file of ours that a command runs refuses a Python without the packages
    check_the_environment = {ROOT / room / "__init__.py" for room in ("tasks", "flows")}
    for path in modules("tasks", "flows"):
        if path.name == "__init__.py" and path not in check_the_environment:
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


def test_steps_of_a_longer_function_are_set_apart_by_a_blank_line_or_a_comment() -> None:
    unmarked = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in modules("tasks", "flows")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and len(lines := _body_lines(node)) > LONGEST_WITHOUT_A_MARK
        and not marks(path) & set(lines)
    ]
    assert unmarked == []


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    """The lines of a function behind its docstring."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return range(body[0].lineno if body else 0, (node.end_lineno or 0) + 1 if body else 0)


@cache
def marks(path: Path) -> set[int]:
    """The numbers of the lines that are blank or hold a comment."""
    with path.open("rb") as stream:
        tokens = list(tokenize.tokenize(stream.readline))
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT or (token.type == tokenize.NL and not token.line.strip())
    }


def test_a_name_is_a_noun_that_says_what_it_is() -> None:
    vague = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {word}"
        for path in modules("tasks", "flows")
        for node in ast.walk(tree_of(path))
        for word in sorted(_names_given(node) & VAGUE)
    ]
    assert vague == []


def _names_given(node: ast.AST) -> set[str]:
    """The names that a node binds: assigned, looped over, or taken as arguments."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return {node.id}
    if isinstance(node, ast.arg):
        return {node.arg}
    return {node.name} if isinstance(node, ast.ExceptHandler) and node.name else set()
