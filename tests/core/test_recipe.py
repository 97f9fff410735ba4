"""A recipe holds what differs; the params.yaml that is written from it is whole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tasks.core.errors import ConfigError
from tasks.core.params import load_section, parse_params
from tasks.launch import recipe
from tasks.launch.recipe import owner_of, whole_params
from tests.conftest import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
QWEN = (ROOT / "infra/recipes/qwen2.5-3b-human-like.yaml").read_text(encoding="utf-8")
GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false")


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip().startswith("#")]


def changed_lines(text: str) -> list[str]:
    """The lines that are not those of params.yaml."""
    before = TEXT.splitlines()
    return [line for line in text.splitlines() if line not in before]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with params.yaml and the recipes, both committed, as the current folder."""
    (tmp_path / "params.yaml").write_text(TEXT)
    (tmp_path / "infra/recipes").mkdir(parents=True)
    (tmp_path / "infra/recipes/qwen.yaml").write_text(QWEN)
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
        subprocess.run([*GIT, *words], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_written_file_builds_every_owner_with_the_recipes_values(checkout: Path, capsys):
    assert recipe.main(["qwen"]) == 0
    params = checkout / "params.yaml"
    configs = {name: load_section(params, name, owner_of(name)) for name in parse_params(TEXT, "params.yaml")}
    assert configs["base"].source == "Qwen/Qwen2.5-3B"
    assert (configs["train"].objective.beta, configs["train"].learning_rate) == (0.1, 5e-6)
    assert configs["train"].objective.nll_weight == 1.0, "what the recipe leaves out stays"
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"params.yaml: {len(said) - 1} keys changed by infra/recipes/qwen.yaml"
    assert "  train.learning_rate: 0.002 -> 5e-06" in said


def test_comments_are_kept_and_the_recipes_own_take_the_place_of_those_of_their_key():
    text = whole_params(TEXT, QWEN, "qwen")
    gone = [line for line in comments(TEXT) if line not in comments(text)]
    assert [line.split(";")[0] for line in gone] == [
        "    # Groups of phrases",
        "    # Phrases that blame or dismiss the customer.",
    ]
    assert [line for line in comments(text) if line not in comments(TEXT)] == [
        "    # Groups of phrases; any one phrase satisfies its group.",
        "    # Phrases with which a model talks about itself instead of answering like a person.",
    ]


def test_the_demos_own_words_are_replaced():
    rules = parse_params(whole_params(TEXT, QWEN, "qwen"), "params.yaml")["winrate"]["rules"]
    assert (rules["required_groups"], rules["topic_words"]) == ([], [])
    assert "language model" in rules["forbidden_phrases"]
    assert "kettle" not in whole_params(TEXT, QWEN, "qwen")


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("train: {learning_rate: 1e-5}", ["  learning_rate: 1e-5"]),
        ("train: {learning_rate: '1e-5'}", ["  learning_rate: '1e-5'"]),
        ("train: {objective: {loss: {sigmoid: 0.8, sft: 1.0}}}", ["    loss: {sigmoid: 0.8, sft: 1.0}"]),
        ("train:\n    lora:\n        rank: 4", ["    rank: 4"]),
        ("respond:\n  max_prompts: null", ["  max_prompts: null"]),
        ('respond:\n  # All.\n  max_prompts: 9 # some\n', ["  # All.", "  max_prompts: 9"]),
        ('runtime: {compile: "on"}', ['  compile: "on"']),
        ("ingest:\n  sources:\n  - a.jsonl\n  - b.csv\n", ["  sources:", "    - a.jsonl", "    - b.csv"]),
        ("ingest: {columns: {prompt: question}}", ["  columns: {prompt: question}"]),
        ("report:\n  title: |\n    Two\n    lines\n", ["  title: |", "    Two", "    lines"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_is_written_as_the_recipe_writes_it_and_nothing_else_changes(written: str, lines: list[str]):
    text = whole_params(TEXT, written, "mine")
    assert changed_lines(text) == lines
    assert whole_params(text, written, "mine") == text, "a second time it changes nothing"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("train: {learning_rat: 1}", "unknown key `train.learning_rat` — did you mean `learning_rate`?"),
        ("train: {objective: {bta: 1}}", "unknown key `train.objective.bta` — did you mean `beta`?"),
        ("trian: {epochs: 1}", "unknown section `trian` — did you mean `train`?"),
        ("train: {epochs: 0}", "`train.epochs` is 0 — write 1 or more"),
        ("respond: {do_sample: true}", "`respond.do_sample` is no longer a key — delete it: `temperature: 0`"),
        ("train: 3", "`train` of mine is 3, not a mapping of keys — write key: value lines"),
        ("- 1", "mine is not a mapping of sections"),
        ("train: {epochs: 1", "mine is not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(written: str, message: str):
    with pytest.raises(ConfigError) as caught:
        whole_params(TEXT, written, "mine")
    assert str(caught.value).startswith(message)


def test_a_key_that_has_no_line_in_params_yaml_is_refused():
    folded = "train: {epochs: 1, learning_rate: 2e-3}\n"
    with pytest.raises(ConfigError, match=r"params.yaml has no line for `train.epochs`"):
        whole_params(folded, "train: {epochs: 2}", "mine")


def test_uncommitted_changes_are_not_written_over_unless_it_is_forced(checkout: Path, capsys):
    mine = TEXT.replace("epochs: 1", "epochs: 3")
    (checkout / "params.yaml").write_text(mine)
    assert recipe.main(["qwen"]) == 1
    assert "params.yaml has uncommitted changes — commit them, or add --force" in capsys.readouterr().err
    assert (checkout / "params.yaml").read_text() == mine
    assert recipe.main(["qwen", "--force"]) == 0
    assert "epochs: 3" in (checkout / "params.yaml").read_text(), "what the recipe leaves out stays"


def test_where_git_says_nothing_force_is_needed(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text(TEXT)
    (tmp_path / "mine.yaml").write_text("train: {epochs: 2}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert recipe.main(["mine.yaml"]) == 1
    assert "git does not say whether params.yaml is committed" in capsys.readouterr().err
    assert recipe.main(["mine.yaml", "--force"]) == 0


def test_without_params_yaml_it_is_told(checkout: Path, capsys):
    (checkout / "params.yaml").unlink()
    assert recipe.main(["qwen"]) == 1
    assert "params.yaml is missing — run from the checkout's root" in capsys.readouterr().err


def test_recipes_are_listed_and_an_unknown_one_is_told_the_names(checkout: Path, capsys):
    assert recipe.main(["--list"]) == 0
    assert capsys.readouterr().out.startswith("qwen: Qwen2.5-3B on HumanLLMs/Human-Like-DPO-Dataset")
    assert recipe.main(["qwem"]) == 1
    assert capsys.readouterr().err == "[recipe] error: there is no recipe qwem — give a file, or one of: qwen\n"
