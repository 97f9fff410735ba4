"""The project's own source, as the rules look at it."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BEFORE = ("base", "ingest", "encode", "adapters", "reference", "train")  # the adapter is judged
STAGES = (*_BEFORE, "respond", "benchmarks", "qualify", "winrate", "report", "register")
SECTIONS = tuple(stage for stage in STAGES if stage not in ("adapters", "qualify"))  # which read others' sections
TORCH_FREE = ("ingest", "encode", "adapters", "qualify", "winrate", "report", "register")


def modules(*folders: str) -> list[Path]:
    """Return the Python files under the named folders of the checkout."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    """Return the name that a module is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    """Return the parsed source of a module."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path, only_top_level: bool = False) -> Iterator[str]:
    """Yield the dotted names that a module imports, `from a import b` as a and a.b."""
    nodes = tree_of(path).body if only_top_level else ast.walk(tree_of(path))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def tracked() -> tuple[Path, ...]:
    """Return every file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return tuple(ROOT / line for line in sorted(set(listed.stdout.splitlines())) if (ROOT / line).is_file())
