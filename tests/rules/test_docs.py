"""README, docs and infra/README.md are true: links lead somewhere, modules, keys and files that they name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.judges.protocol.protocol import Answer, Prompt, Response, Scorer, Turn
from tests.rules import params_page
from tests.rules.source import ROOT
from tests.rules.test_borders import MAY_IMPORT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "infra" / "README.md"]
README_LINES = 168
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
OURS = ("tasks", "flows", "tests")
NO_KEY = {"html", "json", "jsonl", "jinja", "lock", "md", "png", "py", "sh", "yaml", "yml"}  # `report.html` is a file


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+?)\s*$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.append(anchor + (f"-{found.count(anchor)}" if anchor in found else ""))
    return set(found)


def links(text: str) -> list[str]:
    """The targets of links and pictures that lead to no other host."""
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Yield the links of a page that lead to no file, or to no heading."""
    for link in links(text):
        name, _, anchor = link.partition("#")
        target = page.parent / name
        if (name and not target.exists()) or (anchor and anchor not in anchors(read(target) if name else text)):
            yield link


def modules_run(text: str) -> set[str]:
    """Those of our modules that a page runs with `-m`."""
    names = {name.rstrip(".") for name in re.findall(r"(?<!\S)-m ([\w.]+)", text)}
    return {name for name in names if name.split(".")[0] in OURS}


def is_runnable(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file() or name in OURS


def keys_named(text: str, sections: set[str]) -> set[str]:
    """The keys of params.yaml that a page writes as code, as `section.key`."""
    outside = FENCE.sub("", text)
    blocks = [block for block in FENCE.findall(text) if not block.startswith(("```python", "```mermaid"))]
    spans = [*re.findall(r"`([^`\n]+)`", outside), *re.findall(r"^ {4}.*$", outside, re.MULTILINE), *blocks]
    name = re.compile(rf"(?<![\w./-])(?:{'|'.join(sorted(sections))})(?:\.[a-z_]+)+(?![\w/(])")
    return {key for span in spans for key in name.findall(span) if key.rpartition(".")[2] not in NO_KEY}


def has_key(params: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(params, dict) or part not in params:
            return False
        params = params[part]
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert list(broken_links(page, read(page))) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_module_that_is_run_exists(page: Path) -> None:
    assert [name for name in sorted(modules_run(read(page))) if not is_runnable(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_params_key_that_is_named_exists(page: Path) -> None:
    params = yaml.safe_load(read(ROOT / "params.yaml"))
    assert [key for key in sorted(keys_named(read(page), set(params))) if not has_key(params, key)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_that_is_named_is_there(page: Path) -> None:
    name = re.compile(r"(?<![\w/.<-])(?:tasks|flows|tests|infra|docs)/[\w./-]*\w")
    code = re.findall(r"`([^`\n]+)`", FENCE.sub("", read(page)))
    named = {hit for span in code for hit in name.findall(span) if "<" not in span}
    by_users = {"infra/.env"}  # filled in
    assert [hit for hit in sorted(named - by_users) if not (ROOT / hit).exists()] == []


def test_every_page_is_in_the_index() -> None:
    listed = set(links(read(ROOT / "docs" / "README.md")))
    assert {page.name for page in PAGES if page.parent.name == "docs"} - {"README.md"} <= listed


def test_params_md_is_that_of_params_yaml() -> None:
    text = read(params_page.PAGE)
    assert text == params_page.page(), "run `python -m tests.rules.params_page --write`"
    listed = params_page.keys(read(ROOT / "params.yaml"))
    in_one_line = {key.path for key in listed if key.written}
    assert [key.path for key in listed] == list(paths(yaml.safe_load(read(ROOT / "params.yaml")), in_one_line))


def paths(params: dict[str, Any], whole: set[str], above: str = "") -> Iterator[str]:
    """Yield the path of every key of a mapping; those of ``whole`` without the keys within."""
    for name, value in params.items():
        yield f"{above}{name}"
        if isinstance(value, dict) and f"{above}{name}" not in whole:
            yield from paths(value, whole, f"{above}{name}.")


def test_the_diagram_of_rooms_has_the_arrows_that_imports_may_take() -> None:
    blocks = re.findall(r"```mermaid\n(.*?)```", read(ROOT / "docs" / "architecture.md"), re.DOTALL)
    drawn = set(re.findall(r"^ *(\w+) --> (\w+)$", blocks[1], re.MULTILINE))
    rooms = {room.removeprefix("dpo/"): to for room, to in MAY_IMPORT.items() if room.startswith("dpo/")}
    allowed = {(room, dep.removeprefix("dpo/")) for room, to in rooms.items() for dep in to if dep.startswith("dpo/")}
    assert drawn == {(room, dep) for room, dep in allowed if "telemetry" not in (room, dep)}


@pytest.mark.parametrize(
    "words", ["own data", "model", "own judge", "settings", "resume", "many gpus", "promote", "roll back", "retrain"]
)
def test_a_new_user_finds_it_by_a_heading(words: str) -> None:
    headings = [heading.lower() for heading in re.findall(r"^## (.+)$", read(ROOT / "README.md"), re.MULTILINE)]
    assert any(words in heading for heading in headings)


def test_the_example_of_a_judge_judges() -> None:
    code = re.search(
        r"^```python\n(# my_judges.*?)^```$", read(ROOT / "docs" / "evidence.md"), re.DOTALL | re.MULTILINE
    )
    assert code
    names: dict[str, Any] = {}
    exec(compile(code[1], "docs/evidence.md", "exec"), names)
    judge: Scorer = names["CalmJudge"](most=2)
    asked = Prompt((Turn("user", "?"),))
    scores = judge.score([Response(asked, Answer(text)) for text in ("Stop!!", "Please stop!", "Stop!!!!")])
    assert [score.value for score in scores] == [-2.0, -1.0, -2.0]
    assert len(judge.fingerprint) == 64


def test_the_readme_stays_a_page() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= README_LINES, "move it to docs/"


def test_a_link_to_nothing_is_found() -> None:
    text = "# One thing\n[a](#one-thing) [b](#another) [c](gone.md) [d](https://a.example) [e](README.md#nothing)\n"
    assert list(broken_links(ROOT / "page.md", text)) == ["#another", "gone.md", "README.md#nothing"]


def test_keys_and_modules_are_read_out_of_code() -> None:
    text = "Set `train.lora.rank: 4` or\n\n    python -m tasks.train   # train.seed\n\nnot train.this, `report.html`.\n"
    assert keys_named(text, {"train", "report"}) == {"train.lora.rank", "train.seed"}
    assert modules_run(text + "`torchrun -m torch.x`") == {"tasks.train"}
