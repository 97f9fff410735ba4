"""The README's tree, drawn from the files themselves: each module's first sentence is its phrase.

run as: python -m tests.rules.tree    draws the tree in README.md anew
"""

from __future__ import annotations

import ast
import re

from tests.rules.source import ROOT, tracked

TOP = {
    "README.md": "this page",
    "params.yaml": "every parameter, a sentence above each key",
    "dvc.yaml": "the ten stages, what each reads and writes",
    "pyproject.toml": "packages and tools",
    "constraints.txt": "the whole dependency tree, pinned",
    "Makefile": "repro, test, lint, e2e",
}
OTHERS = {
    "page.css": "the page's style",
    "curve.css": "the colours of the curves' standalone files",
    "template.html.jinja": "the page",
}
TAILS = {
    "infra/": "where it runs: image, compose, work pools, Kubernetes, Terraform; recipes/ for real models",
    "tests/": "a folder a room; rules/ holds the house's rules, e2e/ whole runs",
}


def draw() -> str:
    """Return the tree of the repository as text."""
    lines = [_line(0, name, phrase) for name, phrase in TOP.items()]
    for house in ("flows", "tasks"):
        lines += _folder(house, 0)
    lines += [_line(0, name, phrase) for name, phrase in TAILS.items()]
    return "\n".join(lines)


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
    """Return the first sentence that a file says of itself, on one line."""
    if not path.endswith(".py"):
        return OTHERS.get(path.split("/")[-1], "data beside the module")
    said = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8"))) or ""
    first = said.split("\n\n")[0].replace("\n", " ").strip()
    return first.rstrip(".")


def _line(depth: int, name: str, phrase: str) -> str:
    return f"{'  ' * depth + name:<34} {phrase}"


def main() -> None:
    """Write the tree into README.md."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        re.sub(r"(## Tree\n\n```text\n).*?(```)", lambda m: f"{m[1]}{draw()}\n{m[2]}", text, flags=re.DOTALL)
    )


if __name__ == "__main__":
    main()
