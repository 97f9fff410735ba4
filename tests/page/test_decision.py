"""The page of the decision: what it says, and that only the machine's own copy knows what the judge took."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.page.decision.decision_page import DecisionPage, decision_page
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import Release, judge, promote, register
from tasks.registry.versions.registry import Registry
from tests.page.accessibility import faults
from tests.page.samples import papers
from tests.page.test_webpage import HOSTILE, Page
from tests.registry.samples import evidence_files, sample, scores_of

PARAMS = "winrate:\n  judge: {kind: openai, model: small-judge}\n"
FAILED = {"control_judge": {"value": 1.0, "limit": 0.0, "passed": False}}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    from tasks.registry.stores.folder import FolderStore

    return Registry(FolderStore(tmp_path / "registry"), "demo")


def released(registry: Registry, seed: int, wins: int, **changes) -> Release:
    candidate = sample(seed, scores_of(wins, losses=100 - wins), **changes)
    return register(registry, *candidate, "champion", GateConfig())


def page_of(registry: Registry, release: Release, folder: Path, **changes) -> DecisionPage:
    folder.mkdir(exist_ok=True)
    for name, data in evidence_files(scores_of(80, losses=20), **changes).items():
        (folder / name).write_bytes(data)
    return decision_page("demo", registry.history(), release, "champion", folder, PARAMS)


def text_of(page: str) -> str:
    return Page(page).text.replace("\u00a0", " ")


def test_a_promotion_is_the_headline_and_every_reason_and_number_stands_below(registry: Registry, tmp_path: Path):
    release = released(registry, 0, 80)
    page = page_of(registry, release, tmp_path / "winrate", qualification=papers(0.8))
    html = page.render()
    text = text_of(html)
    assert page.headline == "demo v1 was promoted to champion."
    assert all(reason in text for reason in release.decision.reasons)
    assert "There was no champion, so it was compared with the base." in text
    assert "compared prompts 100" in text
    assert "openai (small-judge)" in text
    assert Page(html).open == []
    assert not {"script", "img"} & {tag for tag, _ in Page(html).elements}
    assert faults(html) == []


def test_a_refusal_says_what_kept_it_from_the_alias(registry: Registry, tmp_path: Path):
    released(registry, 0, 80)
    refused = page_of(registry, released(registry, 1, 40), tmp_path / "winrate")
    assert refused.headline == "demo v2 was not promoted: a condition of the gate is not met."
    assert "Compared with the champion" in text_of(refused.render())


def test_too_few_prompts_to_compare_are_said_to_give_no_bound(registry: Registry, tmp_path: Path):
    few = register(registry, *sample(0, scores_of(20, losses=2)), "champion", GateConfig())
    page = page_of(registry, few, tmp_path / "winrate")
    assert "22 prompts, 50 are needed" in text_of(page.render())
    assert "The gate’s lower bound – not compared with the base" in text_of(page.render())


def test_an_experiment_is_said_to_be_no_registration(registry: Registry, tmp_path: Path):
    for wins, would in ((80, "would promote it"), (40, "would not promote it")):
        _, evidence = sample(5, scores_of(wins, losses=100 - wins))
        asked = judge(registry, evidence, "champion", GateConfig())
        page = page_of(registry, asked, tmp_path / "winrate")
        assert page.headline == f"demo was judged in an experiment and not registered; the gate {would}."
        assert "None is registered yet." in text_of(page.render())


def test_a_failed_guard_is_the_headline(registry: Registry, tmp_path: Path):
    page = page_of(registry, released(registry, 0, 80, guards=FAILED), tmp_path / "winrate", guards=FAILED)
    assert page.headline == ("Not to be believed, so demo v1 was not promoted: the guard control_judge failed.")
    assert "Win rate 80.0 % not to be believed" in text_of(page.render())
    assert page.versions[0].outcome == "keep; guards failed"


def test_a_promotion_against_the_gate_is_said_to_be_one(registry: Registry, tmp_path: Path):
    digest = released(registry, 0, 40).digest
    promote(registry, digest, "champion", override="kinder")
    again = released(registry, 0, 40)
    page = page_of(registry, again, tmp_path / "winrate")
    assert page.headline == "demo v1 was promoted to champion by a person, against the gate."
    spoiled = page_of(registry, again, tmp_path / "winrate", guards=FAILED)
    assert spoiled.headline == "Not to be believed, though demo v1 was promoted: the guard control_judge failed."


def test_the_history_ends_with_the_version_so_that_later_ones_change_no_page(registry: Registry, tmp_path: Path):
    first = released(registry, 0, 80)
    before = page_of(registry, first, tmp_path / "winrate").render()
    second = released(registry, 1, 40)
    promote(registry, second.digest, "champion", override="kinder")
    assert page_of(registry, first, tmp_path / "winrate").render() == before

    rows = page_of(registry, second, tmp_path / "winrate").versions
    assert [(row.version[:2], row.win_rate, row.outcome, row.is_promoted, row.is_this) for row in rows] == [
        ("v2", 0.4, "keep", True, True),
        ("v1", 0.8, "promote", True, False),
    ]


def test_what_the_judge_took_stands_only_where_it_is_given(registry: Registry, tmp_path: Path):
    page = page_of(registry, released(registry, 0, 80), tmp_path / "winrate")
    assert "runs/decision.html has them, on the machine that asked the judge" in text_of(page.render())
    assert not re.search(r"\d\d:\d\d:\d\d", page.render()), "two registries give the same bytes"
    assert re.search(r"\d\d:\d\d:\d\d", page.render({}))
    assert "12 calls" in text_of(page.render({"winrate": "12 calls, cost 0.0123"}))
    assert "The judge was not asked on this machine." in text_of(page.render({}))


def test_evidence_of_before_judges_had_papers_is_said_to_have_none(registry: Registry, tmp_path: Path):
    page = page_of(registry, released(registry, 0, 80), tmp_path / "winrate")
    assert "Nobody measured the judge before it judged these answers." in text_of(page.render())


def test_hostile_faults_and_canaries_are_shown_as_text(registry: Registry, tmp_path: Path):
    hostile = papers(0.4, (f"it is {HOSTILE}",), canaries={HOSTILE: 0.5}, kind=HOSTILE)
    html = page_of(registry, released(registry, 0, 80), tmp_path / "winrate", qualification=hostile).render()
    assert not {"script", "img"} & {tag for tag, _ in Page(html).elements}
    assert re.search(r"\{\{ 7\*7 \}\}", html)
