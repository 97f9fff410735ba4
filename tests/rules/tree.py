"""docs/tree.md, drawn from the files themselves: each room with its stages, each module with its first sentence.

run as: python -m tests.rules.tree    writes docs/tree.md
"""

from __future__ import annotations

import ast

from tests.rules import closure
from tests.rules.source import ROOT, STAGES, tracked

PAGE = ROOT / "docs" / "tree.md"
TOP = {
    "README.md": "what this is, and how to start",
    "CHANGELOG.md": "what changed",
    "params.yaml": "every parameter, a sentence above each key",
    "dvc.yaml": "the twelve stages, what each reads and writes",
    "pyproject.toml": "packages and tools",
    "constraints.txt": "the whole dependency tree, pinned",
    "Makefile": "repro, test, lint, e2e, nightly",
}
OTHERS = {
    "page.css": "the page's style",
    "curve.css": "the colours of the curves' standalone files",
    "template.html.jinja": "the page",
}
TAILS = {
    "docs/": "the pages beside the README",
    "infra/": "where it runs: image, compose, work pools, Kubernetes, Terraform; recipes/ for real models",
    "tests/": "a folder a room; rules/ holds the project's rules, e2e/ whole runs, bench/ the benchmarks",
}
HEAD = """# Rooms and files

`python -m tests.rules.tree` writes this page; a test compares it with the files.

## Rooms

A room is a folder under `tasks/`. DVC re-runs a stage when a file of a room that it depends on changes. What only
tells (logs, receipts, progress, trackers) and what only launches is nobody's dependency.

| room | what it holds | stages that depend on it |
|---|---|---|
"""


def page() -> str:
    """Return the whole of docs/tree.md."""
    return f"{HEAD}{_rooms()}\n\n## Tree\n\n```text\n{draw()}\n```\n"


def draw() -> str:
    """Return the tree of the repository as text."""
    lines = [_line(0, name, phrase) for name, phrase in TOP.items()]
    for house in ("flows", "tasks"):
        lines += _folder(house, 0)
    lines += [_line(0, name, phrase) for name, phrase in TAILS.items()]
    return "\n".join(lines)


def _rooms() -> str:
    """Return a row for each folder of modules under tasks/: its sentence, and the stages that dvc.yaml gives it."""
    stages = closure.load()["stages"]
    modules = [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / "tasks")]
    rows = []
    for folder in sorted({path.parent for path in modules}):
        path = folder.relative_to(ROOT)
        if len(path.parts) < 2 or not any(file.stem != "__init__" for file in folder.glob("*.py")):
            continue
        above = {part.as_posix() for part in (path, *path.parents)}
        users = [stage for stage in STAGES if stage in stages and above & set(stages[stage]["deps"])]
        everyone = "all" if len(users) == len(stages) else ", ".join(users) or "none"
        rows.append(f"| `{path.as_posix()}/` | {_sentence(f'{path.as_posix()}/__init__.py')} | {everyone} |")
    return "\n".join(rows)


def _folder(folder: str, depth: int) -> list[str]:
    """Return the lines of one folder: itself, its files, then its folders."""
    every = [path.relative_to(ROOT).as_posix() for path in tracked()]
    here = [path for path in every if path.startswith(f"{folder}/")]
    files = sorted(path for path in here if "/" not in path[len(folder) + 1 :] and not path.endswith("__init__.py"))
    inner = sorted({path[len(folder) + 1 :].split("/")[0] for path in here if "/" in path[len(folder) + 1 :]})
    lines = [_line(depth, f"{folder.split('/')[-1]}/", _sentence(f"{folder}/__init__.py"))]
    lines += [_line(depth + 1, path.split("/")[-1], _sentence(path)) for path in files]
    for name in inner:
        lines += _folder(f"{folder}/{name}", depth + 1)
    return lines


def _sentence(path: str) -> str:
    """Return the first sentence of a file's docstring, on one line."""
    if not path.endswith(".py"):
        return OTHERS.get(path.split("/")[-1], "data beside the module")
    docstring = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").strip().rstrip(".")


def _line(depth: int, name: str, phrase: str) -> str:
    return f"{'  ' * depth + name:<34} {phrase}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
