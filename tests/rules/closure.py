"""The rooms that each stage depends on, for `deps` in dvc.yaml: the folders of the modules that it imports.

DVC does not follow imports, so dvc.yaml lists the folder of every module that a stage imports, directly or through
others, inside functions too. Files that a module names by a string and that lie beside it (a template, a style sheet)
belong to it, and so does a package that it loads by path. Observers, which only tell, are nobody's dependency, and
what only they import is none either; a package's `__init__` holds a docstring alone.

run as: python -m tests.rules.closure            prints what differs, exit code 1 when something does
        python -m tests.rules.closure --write    brings the deps of dvc.yaml up to date
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
CODE = "tasks/"
OBSERVERS = ("tasks/telemetry", "tasks/launch", "tasks/dpo/telemetry")


def imported_files(stage: str, root: Path = ROOT) -> tuple[str, ...]:
    """Return the files whose edit can change what ``stage`` writes, as sorted paths relative to ``root``."""
    found: set[Path] = set()
    to_visit = list(_files_of(f"tasks.{stage}", root))
    while to_visit:
        path = to_visit.pop()
        if path in found or is_observer(path.relative_to(root).as_posix()):
            continue
        found.add(path)
        if path.suffix == ".py":
            to_visit += used_by(path, root)
    return tuple(sorted(path.relative_to(root).as_posix() for path in found if path.name != "__init__.py"))


def is_observer(path: str) -> bool:
    """Tell whether a file, by its path in the checkout, only tells what happens."""
    return path.startswith(tuple(f"{room}/" for room in OBSERVERS))


def stage_deps(stage: str, root: Path = ROOT) -> tuple[str, ...]:
    """Return the code that ``stage`` depends on: its own file and folders, those in other such folders left out."""
    files = imported_files(stage, root)
    rooms = {Path(file).parent for file in files} - {Path("tasks")}
    outermost = {room.as_posix() for room in rooms if not rooms & set(room.parents)}
    return tuple(sorted({file for file in files if Path(file).parent == Path("tasks")} | outermost))


@cache
def used_by(path: Path, root: Path) -> tuple[Path, ...]:
    """Return the files of ours that the module at ``path`` imports or names beside itself."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        for name in _imported(node, path, root):
            found.update(_files_of(name, root))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(_files_of(node.value, root) if node.value.startswith("tasks.") else _beside(path, node.value))
        found.update(_loaded_by_path(node, path))
    return tuple(sorted(found - {path}))


def _imported(node: ast.AST, path: Path, root: Path) -> Iterator[str]:
    """Yield the dotted names that an import statement may load; `from a import b` gives a and a.b."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = path.relative_to(root).parts[: -node.level]
            base = ".".join((*package, base)).rstrip(".")
        yield base
        yield from (f"{base}.{alias.name}" for alias in node.names)


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """Yield the module's file, where it is ours, and the `__init__` of every package above it."""
    parts = name.split(".")
    if parts[0] != "tasks":
        return
    for depth in range(1, len(parts) + 1):
        stem = root.joinpath(*parts[:depth])
        for candidate in (stem / "__init__.py", stem.with_suffix(".py")):
            if candidate.is_file():
                yield candidate


def _beside(path: Path, text: str) -> Iterator[Path]:
    """Yield the file or folder beside ``path`` that ``text`` names, unless importing reaches it."""
    is_a_name = 0 < len(text) < 100 and "\n" not in text and text.strip("./") != ""
    if not is_a_name or text.startswith("/"):
        return
    candidate = path.parent / text
    is_code = candidate.suffix == ".py" and (candidate.parent / "__init__.py").is_file()
    is_package = (candidate / "__init__.py").is_file()
    if candidate.exists() and not is_code and not is_package:
        yield candidate


def _loaded_by_path(node: ast.AST, path: Path) -> Iterator[Path]:
    """Yield the modules of a package that `Path(__file__).parent / "name"` points at."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
        is_here = any(isinstance(part, ast.Name) and part.id == "__file__" for part in ast.walk(node.left))
        folder = path.parent / str(node.right.value)
        if is_here and (folder / "__init__.py").is_file():
            yield from folder.rglob("*.py")


def load(root: Path = ROOT) -> Any:
    """Read dvc.yaml, with its comments and layout kept for writing."""
    return _yaml().load((root / "dvc.yaml").read_text(encoding="utf-8"))


def differences(stage: str, entry: Any, root: Path = ROOT) -> tuple[list[str], list[str]]:
    """Return the code deps that dvc.yaml lacks for ``stage``, and those it lists without a reason."""
    listed = {dep for dep in entry.get("deps", []) if dep.startswith(CODE)}
    needed = set(stage_deps(stage, root))
    return sorted(needed - listed), sorted(listed - needed)


def write(root: Path = ROOT) -> None:
    """Rewrite the code deps of every stage in dvc.yaml; data deps, comments and order stay."""
    document = load(root)
    for stage, entry in document["stages"].items():
        if not (root / "tasks" / f"{stage}.py").is_file():
            continue
        data = [dep for dep in entry.get("deps", []) if not dep.startswith(CODE)]
        entry["deps"] = [*data, *stage_deps(stage, root)]
    with (root / "dvc.yaml").open("w", encoding="utf-8") as stream:
        _yaml().dump(document, stream)


def explain(root: Path = ROOT) -> list[str]:
    """Return one line for each stage's dep that is missing or unneeded."""
    lines = []
    for stage, entry in load(root)["stages"].items():
        if not (root / "tasks" / f"{stage}.py").is_file():
            lines.append(f"{stage}: tasks/{stage}.py does not exist")
            continue
        missing, unneeded = differences(stage, entry, root)
        lines += [f"{stage}: add      - {dep}" for dep in missing]
        lines += [f"{stage}: remove   - {dep}" for dep in unneeded]
    return lines


def _yaml() -> YAML:
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 120
    yaml.preserve_quotes = True
    return yaml


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write()
    problems = explain()
    print("\n".join(problems) or "dvc.yaml lists every room that a stage imports")
    sys.exit(bool(problems))
