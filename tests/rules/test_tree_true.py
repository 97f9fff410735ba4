"""docs/tree.md lists every file of the house, each with a phrase, and none that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.rules import tree
from tests.rules.source import ROOT, tracked

HOUSE = ("tasks", "flows")


def tree_lines(text: str) -> list[str]:
    """The lines of the fenced block under the heading `Tree`."""
    found = re.search(r"^#+ Tree\s*$.*?^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found, "docs/tree.md has no ```text block under a heading `Tree`"
    return [line for line in found[1].splitlines() if line.strip()]


def entries(lines: list[str]) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield (path, phrase) of each line; indentation says which folder it lies in."""
    open_folders: list[tuple[int, PurePosixPath]] = []
    for line in lines:
        plain = re.sub(r"[│├└─|`]", " ", line)
        depth = len(plain) - len(plain.lstrip())
        name, _, phrase = plain.strip().partition(" ")
        while open_folders and open_folders[-1][0] >= depth:
            open_folders.pop()
        path = (open_folders[-1][1] if open_folders else PurePosixPath()) / name
        if name.endswith("/"):
            open_folders.append((depth, path))
        yield path, phrase.strip()


def test_a_tree_is_read_by_its_indentation() -> None:
    text = """
tasks/              the house
    core/           the hall
        errors.py   all errors
    train.py        DPO
flows/              Prefect
"""
    assert list(entries(text.split("\n")[1:-1])) == [
        (PurePosixPath("tasks"), "the house"),
        (PurePosixPath("tasks/core"), "the hall"),
        (PurePosixPath("tasks/core/errors.py"), "all errors"),
        (PurePosixPath("tasks/train.py"), "DPO"),
        (PurePosixPath("flows"), "Prefect"),
    ]


def test_the_page_of_rooms_and_files_is_true() -> None:
    text = tree.PAGE.read_text(encoding="utf-8")
    listed = dict(entries(tree_lines(text)))
    there = {PurePosixPath(path.relative_to(ROOT).as_posix()) for path in tracked()}
    house = {path for path in there if path.parts[0] in HOUSE and path.name != "__init__.py"}
    missing = sorted(map(str, house - set(listed)))
    assert missing == [], "docs/tree.md lacks these; run `python -m tests.rules.tree`"
    gone = [str(path) for path in listed if not (ROOT / path).exists()]
    assert gone == [], "docs/tree.md names what is not there; run `python -m tests.rules.tree`"
    assert [str(path) for path, phrase in listed.items() if not phrase] == [], "a phrase is missing"


def test_the_page_has_each_files_own_sentence_and_the_stages_of_dvc_yaml() -> None:
    assert tree.PAGE.read_text(encoding="utf-8") == tree.page(), "run `python -m tests.rules.tree`"
