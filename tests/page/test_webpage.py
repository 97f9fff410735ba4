from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from tasks.core.errors import ArtifactError
from tasks.core.files import atomic_folder, write_text
from tasks.page.facts import Facts
from tasks.page.readers.read_answers import read_answers
from tasks.page.readers.read_data import read_data
from tasks.page.webpage import FOLDER, render
from tasks.report import collect
from tests.page.accessibility import faults
from tests.page.samples import PARAMS, distrusted, make_folders

HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}{% raw %}\x00\u202e&amp;"


class Page(HTMLParser):
    """Collects what a browser would make of a page: elements with attributes, and text."""

    VOID = frozenset({"meta", "link", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def _facts(tmp_path, **changes) -> Facts:
    return collect(make_folders(tmp_path, **{"prompts": 60, "pairs": 200, **changes}), PARAMS)


def _render(facts: Facts, title: str = "Better replies") -> str:
    return render(facts, title, 600, 8)


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> Facts:
    return _facts(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def page(facts) -> str:
    return _render(facts)


def test_every_element_is_closed_in_order(page):
    assert Page(page).open == []


def test_the_page_loads_nothing_and_runs_nothing(page):
    loads = {"src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href"}
    for tag, attributes in Page(page).elements:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form", "img"}
        assert not loads & set(attributes), f"<{tag}> loads something"
        assert not [name for name in attributes if name.startswith("on")]
        link = attributes.get("href")
        assert link is None or link.startswith(("#", "data:,")), link
    assert not re.search(r"url\(|@import", page)


def test_the_page_forbids_scripts_and_loads_itself_as_well(page):
    policies = [a["content"] for tag, a in Page(page).elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_the_page_keeps_the_rules_of_accessible_pages(page, tmp_path):
    everything = _facts(tmp_path, winrate=distrusted, has_champion=True, members=("1 rules", "2 openai"))
    assert faults(page) == faults(_render(everything)) == []


def test_a_page_that_breaks_these_rules_would_be_noticed():
    body = "<h1>a</h1><h3>b</h3><input id='x'><svg></svg><table><tr><th>c</th></tr></table><div role='region'></div>"
    assert len(faults(f"<html><title>t</title><main>{body}<style></style></main></html>")) == 7


def test_links_within_the_page_lead_somewhere(page):
    elements = Page(page).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in elements if tag == "a"]
    assert links
    assert all(link and link[1:] in ids for link in links)


def test_hostile_answers_questions_slices_reasons_and_titles_are_shown_as_text(tmp_path):
    text = _render(_facts(tmp_path, hostile=HOSTILE), title="T" + HOSTILE)
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img"}
    assert page.open == []
    assert "alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "&amp;amp;" in text
    assert "\x00" not in text
    assert "\u202e" not in text


def test_the_first_screen_holds_the_verdict_and_the_key_numbers(page, facts):
    text = Page(page).text.replace("\u00a0", " ")
    rate = f"{100 * facts.evidence.rate.value:.1f} %"
    assert f"The adapter beats its base: a win rate of {rate} on 60 held-out prompts" in text
    for label in (
        "Won, tied, lost",
        "KL to the base",
        "Held-out accuracy",
        "Reward margin",
        "Pairs trained on",
        "Answer length",
        "Guards",
    ):
        assert label in text.split("What went in")[0]


def test_the_divergence_to_the_base_stands_beside_the_reward_margin(page, facts):
    text = Page(page).text
    assert "nats per answer ± se" in text.split("KL to the base")[1].split("Pairs trained on")[0]
    assert "KL to the base, nats per answer: 12.34 ± 0.56 (standard error over prompts), or 0.617 per token" in text
    without = Page(_render(dataclasses.replace(facts, answers=dataclasses.replace(facts.answers, kl=None)))).text
    assert "not measured: a server answered" in without
    assert "12.34" not in without


def test_only_a_demo_is_labelled_as_one(facts):
    assert '<span class="chip demo">demo</span>' in _render(facts)
    local = dataclasses.replace(facts, base=dataclasses.replace(facts.base, kind="local", source="/models/stories260K"))
    text = _render(local)
    assert '<span class="chip demo">' not in text
    assert "built-in demo" not in Page(text).text


def test_the_rows_are_accounted_for_on_the_page(page):
    text = Page(page).text.replace("\u00a0", " ")
    assert "Rows read 337 Duplicates of earlier pairs 5" in text
    assert "No usable pair 32" in text
    assert "Left out by ingest.where 30" in text
    assert "Beyond ingest.limit or a source's limit 10" in text
    assert "no reply at the end first: pairs.jsonl:39, row 3 20" in text


def test_the_data_card_names_sources_forms_columns_slices_and_the_bias_of_length(page):
    text = Page(page).text.replace("\u00a0", " ")
    assert "pairs.jsonl 297 standard: the columns annotator, id tools" in text
    assert "votes.csv 40 votes: `winner` none none" in text
    assert "billing 50 15" in text
    assert "the longer one in 62.5 % of the pairs" in text
    assert "Margins From \u22121.50 to 2.00, 0.25 on average; 7 pairs have one of its own." in text
    assert "chosen, characters 13 to 16: 4" in text
    assert "212 sampled prompts: en 191, de 20, und 1." in text


def test_the_data_card_says_whether_somebody_looked_for_personal_data(page, facts):
    def shown(found):
        text = _render(dataclasses.replace(facts, data=dataclasses.replace(facts.data, personal_data=found)))
        return Page(text).text.replace("\u00a0", " ")

    assert "Recognised in 3 rows: EMAIL_ADDRESS 4. Names" in Page(page).text.replace("\u00a0", " ")
    assert "None was recognised." in shown({})
    assert "Nobody looked for them: ingest.personal_data was off." in shown(None)


def test_rows_that_give_several_pairs_are_told_from_the_pairs(facts):
    text = Page(_render(dataclasses.replace(facts, data=dataclasses.replace(facts.data, read=90)))).text
    assert "Rows read 90 Pairs and refusals that they gave" in text.replace("\u00a0", " ")


def test_a_count_that_differs_from_the_list_of_rejects_is_refused(tmp_path):
    folders = make_folders(tmp_path, prompts=8, pairs=20)
    metrics = json.loads((folders.pairs / "metrics.json").read_text())
    metrics["left_out"] |= {"rejected": 31, "filtered": 31}  # one less, one more
    rejects = (folders.pairs / "rejects.jsonl").read_text()
    with atomic_folder(folders.pairs, {"stage": "ingest"}) as draft:
        write_text(draft / "rejects.jsonl", rejects)
        write_text(draft / "metrics.json", json.dumps(metrics))
    with pytest.raises(ArtifactError, match=r"does not account .*dvc repro -f ingest"):
        read_data(folders.pairs, folders.tokens)


def test_a_refused_length_control_says_why(facts):
    evidence = dataclasses.replace(facts.evidence, length_controlled=None, length_refusal="only 12 prompts")
    text = Page(_render(dataclasses.replace(facts, evidence=evidence))).text
    assert "No length-controlled win rate: only 12 prompts." in text


def test_a_champion_that_was_met_stands_beside_the_reference(tmp_path):
    def met(metrics):
        metrics["champion"] = {"digest": "66805e367a53" + "f" * 52, "win_rate": 0.4975, "low": 0.4926, "high": 0.5024}

    text = Page(_render(_facts(tmp_path, winrate=met))).text
    assert "Champion against version 66805e367a53 49.8" in text


def test_a_guard_stands_with_its_limit_and_how_it_is_meant(page):
    text = Page(page).text
    assert "different answers over all answers distinct_ratio 0.93 at least 0.5 passed" in text
    assert "mean length over the base's length_ratio 1.5 0.5 to 2 passed" in text


def test_no_slices_and_no_verdicts_to_compare_are_said_in_words(facts):
    bare = dataclasses.replace(facts.evidence, slices=(), consistency=None, first_position_share=None)
    text = Page(_render(dataclasses.replace(facts, evidence=bare))).text
    assert "The held-out prompts carry no slices." in text
    assert "each answer was scored alone" in text
    assert "None" not in text
    assert "nan" not in text.lower()


def test_a_single_prompt_without_rejected_rows_or_examples_makes_a_page(tmp_path):
    facts = _facts(tmp_path, prompts=1, pairs=1, rejects=0, has_slices=False, losses_every=0)
    text = _render(facts)
    assert Page(text).open == []
    assert "1\u00a0held-out prompt " in text


def test_many_slices_are_cut_to_the_largest_and_the_rest_counted(facts):
    slices = tuple(dataclasses.replace(facts.evidence.slices[0], name=f"slice {i}") for i in range(31))
    text = Page(_render(dataclasses.replace(facts, evidence=dataclasses.replace(facts.evidence, slices=slices)))).text
    assert "slice 19" in text
    assert "slice 20" not in text
    assert "11\u00a0smaller slices more are in the metrics" in text.replace(" smaller", "\u00a0smaller")


def test_a_failed_guard_is_the_headline_and_no_rate_has_the_colour_of_a_win(tmp_path):
    text = _render(_facts(tmp_path, winrate=distrusted))
    headline = Page(re.findall(r"<h1>.*?</h1>", text)[0]).text
    assert headline.startswith("Not to be believed: the guard judge_agreement failed. Measured was a win rate")
    first_screen = text.split('<section id="judge">')[0]
    assert "not to be believed" in first_screen
    assert "The judge does not qualify: it agrees with the labels on 44.0 %" in first_screen
    assert 'class="dot policy"' not in first_screen


def test_the_judge_stands_before_the_answers_with_its_papers(page):
    order = re.findall(r'<section id="(\w+)">', page)
    assert order[:2] == ["judge", "answers"]
    text = Page(page).text.replace("\u00a0", " ").split("Use it")[1].split("Answers All")[0]
    for said in (
        "openai (small-judge)",
        "Fingerprint 5a5a5a5a5a5a",
        "80.0 % (75.0–85.0 %) of 180 decided pairs; its lower bound, 76.0 %, must lie above 50.0 %",
        "Cohen’s κ 0.60 (0.50 to 0.70)",
        "First-position share 52.0 % (47.0–57.0 %)",
        "Ties and invalid 17 and 3 of 200 labelled pairs",
        "dot 100 %, empty 100 %, instruction 95 %, refusal 100 %",
        "97.0 % consistent same verdict in both orders; first-position share 51.0 %",
    ):
        assert said in text, said


def test_an_answer_has_the_verdicts_of_both_orders_and_why_they_fell(page, facts):
    first = Page(page).text.split("1.00 against 1.00")[0]
    assert "Against the base, adapter shown first: the adapter's is" in first
    text = Page(page).text.replace("\u00a0", " ")
    assert "total 0.90 against 0.40" in text
    assert "tone 0.50 against –" in text
    assert "reason The one is kinder. remark, adapter warm" in text
    assert "adapter shown second: " in text
    assert any(one.orders_disagree for one in facts.answers.prompts)
    assert "orders disagree" in text


def test_the_champions_answers_stand_beside_with_their_verdicts(tmp_path, page):
    text = Page(_render(_facts(tmp_path, has_champion=True))).text
    assert "Champion of the registry Sorry about that. No idea." in text
    assert "Against the champion of the registry, adapter shown first:" in text
    assert "tied against the champion" in text
    assert "Champion of the registry" not in Page(page).text


def test_a_panel_has_a_filter_by_member(tmp_path, page):
    facts = _facts(tmp_path, members=("1 rules", "2 openai"))
    text = _render(facts)
    assert facts.answers.members == ("1 rules", "2 openai")
    assert re.search(r"<legend>Judge</legend>.*?all together.*?1 rules.*?2 openai", text, re.DOTALL)
    assert "j0-won j1-lost j2-won" in text
    assert "<legend>Judge</legend>" not in page


def test_more_prompts_than_a_page_can_hold_are_counted_and_the_files_with_all_are_named(tmp_path):
    folders = make_folders(tmp_path, prompts=60, pairs=200)
    few = read_answers(folders.tokens, folders.responses, folders.winrate, most=7)
    text = _render(dataclasses.replace(collect(folders, PARAMS), answers=few))
    assert text.count('<details class="one') == 7
    said = Page(text).text.replace("\u00a0", " ")
    assert "7 of 60 judged prompts, for a page of all would be too large, in the order of their ids" in said
    assert "results/winrate/verdicts.jsonl" in said


def _colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_text_colour_has_the_contrast_that_people_need():
    css = (FOLDER / "page.css").read_text(encoding="utf-8")
    themes = [_colours(block) for block in re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)]
    assert len(themes) == 3  # light, dark, print
    for theme in themes:
        for ground in ("ground", "raised"):
            for text in ("ink", "muted", "policy", "reference", "rejected", "warn"):
                bright, dark = sorted((_luminance(theme[ground]), _luminance(theme[text])), reverse=True)
                assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, theme[text], theme[ground])
