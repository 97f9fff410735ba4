"""The command line: what people and scripts read, and what a mistake prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.registry.gate.gate import GateConfig
from tasks.registry.log.names import Address, is_alias, is_name
from tasks.registry.release.release import promote, register
from tasks.registry.versions.registry import Registry
from tests.page.samples import agreement, papers
from tests.registry.samples import sample, scores_of

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def digests(registry: Registry) -> list[str]:
    """Two versions of `demo`; the second is champion by a person's word."""
    digests = []
    for seed, wins in enumerate((80, 60)):
        candidate = sample(seed, scores_of(wins, losses=100 - wins))
        digests.append(register(registry, *candidate, "champion", GateConfig()).digest)
    promote(registry, digests[1], "champion", override="kinder")
    return digests


def shell(registry: Registry, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tasks.registry", *words, "--root", registry.store.label]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_list_shows_versions_in_order_with_aliases_and_numbers(registry: Registry, digests: list[str]):
    done = shell(registry, "list")
    assert (done.returncode, done.stderr) == (0, "")
    head, first, second = done.stdout.splitlines()
    assert head.split() == ["version", "digest", "aliases", "win", "rate", "lower", "bound", "when"]
    assert first.split()[:5] == ["demo@v1", digests[0][:12], "-", "0.8000", "0.7228"]
    assert second.split()[:4] == ["demo@v2", digests[1][:12], "champion", "0.6000"]


def test_list_marks_a_rate_that_is_not_to_be_believed(command, registry: Registry, digests: list[str]):
    failed = {
        "control_judge": {"value": 1.0, "limit": 0.0, "passed": False},
        "judge_agreement": {"value": 0.9, "limit": 0.5, "passed": True},
    }
    register(registry, *sample(7, scores_of(90, losses=10), guards=failed), "champion", GateConfig())
    rows = command("list", "demo", "--json")[1]
    assert [row["believed"] for row in rows] == [True, True, False]
    assert "(not to be believed)" in command("list", "demo")[1].splitlines()[3]
    assert "- not to be believed: guard `control_judge` failed" in command("show", "demo@v3")[1]


def test_show_tells_a_versions_numbers_reasons_and_lineage(registry: Registry, digests: list[str]):
    done = shell(registry, "show", "demo@v1")
    assert done.returncode == 0
    assert digests[0] in done.stdout
    assert "against the reference 0.8000 on 100 prompts" in done.stdout
    assert "look 1 at these prompts, none spent before, at alpha 0.03040 of 0.05" in done.stdout
    assert "look 2 at these prompts, 1 spent before" in shell(registry, "show", "demo@v2").stdout
    assert "90 train, 10 test" in done.stdout
    assert "adapter_model.safetensors" in done.stdout


def shown_judge(registry: Registry, **changes) -> tuple[list[str], dict]:
    register(registry, *sample(7, **changes), "champion", GateConfig())
    done = shell(registry, "show", "demo@v1")
    assert (done.returncode, done.stderr) == (0, "")
    values = json.loads(shell(registry, "show", "demo@v1", "--json").stdout)
    return done.stdout.splitlines(), values["judge"]


def test_show_tells_the_judges_papers(registry: Registry):
    lines, values = shown_judge(registry, qualification=papers(0.8))
    assert values["qualification"] == papers(0.8)
    assert [line.removeprefix("             - ") for line in lines[4:11]] == [
        "judge        openai 5a5a5a5a5a5a, qualified",
        "agreement with labels 0.8000 (0.7500 to 0.8500), lower bound 0.7600, must lie above 0.5",
        "200 labelled pairs: 180 decided, 17 ties, 3 invalid",
        "agreement of the longer answer 0.5000 (0.4500 to 0.5500)",
        "Cohen's kappa 0.6000 (0.5000 to 0.7000)",
        "first-position share 0.5200 (0.4700 to 0.5700)",
        "games lost by canaries: dot 100%, empty 100%, instruction 95%, refusal 100%",
    ]


def test_show_says_first_that_a_rate_beside_a_failed_guard_is_not_believable(registry: Registry):
    guards = {"judge_agreement": {"value": 0.4, "limit": 0.5, "passed": False}}
    spoiled = papers(0.44, ("it agrees with the labels on 44.0 %",), length_agreement=agreement(0.5, agreement=None))
    lines, _ = shown_judge(registry, qualification=spoiled, guards=guards)
    at = lines.index("believable   no: judge_agreement failed")
    assert lines[at + 1] == "judge        openai 5a5a5a5a5a5a, not qualified"
    assert "             - agreement of the longer answer none" in lines
    assert "             - it agrees with the labels on 44.0 %" in lines


def test_show_says_of_an_older_version_that_nobody_measured_its_judge(registry: Registry, digests: list[str]):
    assert "judge        unknown, without papers: nobody measured it" in shell(registry, "show", "demo@v1").stdout


def test_verify_reads_everything_and_ends_with_1_on_damage(registry: Registry, digests: list[str]):
    assert shell(registry, "verify").returncode == 0
    weights = Path(registry.store.label) / "demo/versions" / digests[0] / "adapter_model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    done = shell(registry, "verify")
    assert done.returncode == 1
    assert f"DAMAGED demo {digests[0][:12]}" in done.stdout
    assert f"ok      demo {digests[1][:12]}" in done.stdout


def test_pull_copies_what_an_alias_names(registry: Registry, digests: list[str], tmp_path: Path):
    done = shell(registry, "pull", "demo@champion", str(tmp_path / "adapter"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "PeftModel.from_pretrained(base, " in done.stdout
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    again = shell(registry, "pull", "demo@champion", str(tmp_path / "adapter"))
    assert again.returncode == 1
    assert "is not an empty folder" in again.stderr


MISTAKES = {
    ("show", "dmeo"): "`dmeo` has no versions in",
    ("show", "demo@champoin"): "did you mean `demo@champion`?",
    ("show", "demo@staging"): "there is champion, v1, v2,",
    ("show", "demo@v7"): "names no version",
    ("show", "demo@00000000"): "names no version",
    ("show", "demo@abc/../x"): "is no alias, serial or digest",
    ("show", "demo@"): "is no alias, serial or digest",
    ("show", "../demo"): "cannot be a name",
    ("pull", "Demo", "x"): "cannot be a name",
    ("promote", "demo@v2", "--alias", "staging"): "the gate says `inconclusive`",
    ("promote", "demo@v1", "--override", " "): "without a reason",
    ("promote", "demo@v1", "--override", "so", "--reason", "so"): "give one",
    ("promote", "demo@v1", "--alias", "v2"): "cannot be an alias",
    ("rollback", "demo", "--alias", "staging"): "never pointed to another version",
    ("log", "other"): "`other` has no versions in",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_clear_line(command, digests: list[str], words: tuple[str, ...]):
    status, said, error = command(*words)
    assert said == ""
    assert status == (3 if "the gate says" in MISTAKES[words] else 1)
    assert error.startswith("[registry] error: ")
    assert error.count("\n") == 1
    assert MISTAKES[words] in error


def test_a_near_name_is_suggested(command, digests: list[str]):
    assert "did you mean `demo`?" in command("show", "dem")[2]


def test_a_registry_that_is_not_there_is_named(command):
    status, _, error = command("list")
    assert status == 1
    assert "there is no registry in" in error


def test_wrong_words_end_with_2():
    done = subprocess.run([sys.executable, "-m", "tasks.registry", "lst"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "invalid choice: 'lst'" in done.stderr


def test_promote_rollback_and_log_tell_one_story(command, digests: list[str]):
    assert command("promote", "demo@v2")[1].strip() == f"demo@champion already points to {digests[1][:12]}"
    assert command("rollback", "demo", "--reason", "swears")[0] == 0
    assert command("show", "demo@champion", "--json")[1]["digest"] == digests[0]
    assert command("promote", f"demo@{digests[1][:8]}", "--override", "all the same")[0] == 0
    entries = command("log", "demo", "--json")[1]
    actions = [(entry["number"], entry["action"], entry.get("authority")) for entry in entries]
    assert actions == [
        (1, "register", None),
        (2, "promote", "gate"),
        (3, "register", None),
        (4, "promote", "override"),
        (5, "rollback", None),
        (6, "promote", "override"),
    ]
    lines = command("log", "demo")[1]
    assert f"champion: {digests[1][:12]} -> {digests[0][:12]}, because: swears" in lines


def test_the_board_orders_base_champions_and_the_newest_version(command, registry: Registry, digests: list[str]):
    newest = register(registry, *sample(3, scores_of(66, losses=34)), "champion", GateConfig()).digest
    rows = command("board", "demo", "--json")[1]["standings"]
    assert [row["name"] for row in rows] == [digests[0], newest, digests[1], "base"]
    assert rows[0]["rating"] == pytest.approx(237.6, abs=0.1)  # 80 of 100 and a tie: 400·log₁₀(80.5/20.5)
    assert rows[-1] == {"name": "base", "rating": 0.0, "low": 0.0, "high": 0.0, "win_rate": 0.5}
    status, text, _ = command("board", "demo")
    assert status == 0
    assert text.splitlines()[1].split()[:3] == ["demo@v1", digests[0][:12], "238"]


def test_the_board_leaves_out_what_met_another_base_and_names_it(command, registry: Registry, digests: list[str]):
    newest = register(registry, *sample(4, scores_of(70, losses=30), base="f" * 64), "champion", GateConfig()).digest
    board = command("board", "demo", "--json")[1]
    assert [row["name"] for row in board["standings"]] == [newest, "base"]
    assert set(board["left_out"]) == set(digests)
    assert "demo@v1 is left out: its reference is" in command("board", "demo")[1]


def test_every_answer_can_be_had_as_json(command, registry: Registry, digests: list[str], tmp_path: Path):
    rows = command("list", "demo", "--json")[1]
    assert [(row["serial"], row["digest"], row["aliases"]) for row in rows] == [
        (1, digests[0], []),
        (2, digests[1], ["champion"]),
    ]
    assert command("verify", "demo@v1", "--json")[1][0]["fault"] is None
    assert command("pull", "demo@v1", str(tmp_path / "x"), "--json")[1]["digest"] == digests[0]
    assert command("promote", "demo@v2", "--json")[1]["moved"] is False
    assert json.dumps(command("show", "demo@v1", "--json")[1]["decision"])


def test_names_and_aliases_follow_strict_patterns():
    assert all(map(is_name, ["demo", "qwen2.5-3b", "a", "a_b.c-d", "x" * 63]))
    assert not any(map(is_name, ["", "Demo", "a..b", ".a", "a-", "a/b", "a b", "x" * 64, "ä", "a\n", None]))
    assert all(map(is_alias, ["champion", "staging-2", "a"]))
    assert not any(map(is_alias, ["v3", "deadbeef", "0a", "Champion", "a@b", "a/b", "", None, "champion\n"]))
    assert Address.parse("demo@deadbeef") == Address("demo", "deadbeef")


def test_the_registry_does_not_load_torch():
    code = "import sys, tasks.register, tasks.registry.__main__; sys.exit(bool({'torch', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
