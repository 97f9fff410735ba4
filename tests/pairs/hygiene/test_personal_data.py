"""Personal data and secrets are counted, masked or dropped; ordinary text and code stay as they are.

All addresses, numbers and keys are made up, and are put together here so that no scanner takes them for real ones.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import ConfigError
from tasks.core.params import build
from tasks.ingest import Folders, IngestConfig, run
from tasks.pairs.hygiene import personal_data
from tasks.pairs.hygiene.personal_data import PersonalData, find_personal_data
from tasks.pairs.record.pair import Message, Pair
from tasks.pairs.record.parquet import stored_pairs
from tasks.pairs.record.rejection import Rejection
from tests.pairs.samples import text_rows

pytestmark = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("presidio_analyzer", "detect_secrets"))),
    reason="the extra `hygiene` is not installed",
)

JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".abcDEF_ghi-1"
KEY = (
    "-----BEGIN RSA PRIVATE KEY"
    + "-----\nDEK-Info: AES-128-CBC,00\n\n"
    + "MIIabc/+\n" * 9
    + "-----END RSA PRIVATE KEY-----"
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("jane.doe+x@mail.example.co.uk", "EMAIL_ADDRESS"),
        ("+49 30 901820", "PHONE_NUMBER"),
        ("+442079460958", "PHONE_NUMBER"),
        ("(212) 555-0123", "PHONE_NUMBER"),
        ("212.555.0123", "PHONE_NUMBER"),
        ("4111 1111 1111 1111", "CREDIT_CARD"),
        ("5500-0000-0000-0004", "CREDIT_CARD"),
        ("378282246310005", "CREDIT_CARD"),
        ("DE89 3704 0044 0532 0130 00", "IBAN_CODE"),
        ("GB82WEST12345698765432", "IBAN_CODE"),
        ("536-90-4399", "US_SSN"),
        ("AKIA" + "ABCD1234EFGH5678", "AWS_ACCESS_KEY"),
        ("ghp_" + "a1B2" * 9, "GITHUB_TOKEN"),
        ("glpat-" + "aB1-" * 5 + "x", "GITLAB_TOKEN"),
        ("xoxb-" + "123456789012-abcdefGHIJ", "SLACK_TOKEN"),
        ("sk_live_" + "a1B2" * 6, "STRIPE_ACCESS_KEY"),
        ("sk-proj-" + "a1" * 10 + "T3BlbkFJ" + "b2" * 10, "OPENAI_TOKEN"),
        ("SG." + "a1" * 11 + "." + "b2" * 21 + "c", "SENDGRID_API_KEY"),
        (JWT, "JSON_WEB_TOKEN"),
        (KEY, "PRIVATE_KEY"),
    ],
)
def test_the_whole_of_it_is_found_within_a_sentence(text: str, kind: str) -> None:
    around = f"Please use {text}, not another one. 北京 "
    (finding,) = find_personal_data(around)
    assert (around[finding.start : finding.end], finding.kind) == (text, kind)


@pytest.mark.parametrize(
    "text",
    [
        "3600000000000 + 62426244000 is 3662426244000, and 355909190063-746 or 4212883012996 is no card.",
        "It was 12/31/2020 at 10:20:30, or 2024-01-15T10:20:30+01:00; chapter 1-2-3, pages 100-200, 555-0123.",
        "The answer is 3.14159265358979, about 2,147,483,647 or 1e-5, in version 1.2.3.4 of 192.168.0.1 (::1).",
        "id 2015551234, at 1609459200, 1609459200000 and 1609459200000008 us, ISBN 978-3-16-148410-0",
        "@app.route('/') def f(self): return x@w.to(device) + q @ k.T  # TODO(anna@desk): 100-200-3000",
        "git clone git@github.com:org/repo.git && pip install pkg@1.2.3 && ssh user@localhost",
        "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15 uuid 123e4567-e89b-12d3-a456-426614174000",
        "if line.startswith('-----BEGIN RSA PRIVATE KEY"
        + "-----'): std::vector<std::string> face::cafe; password = 'x'",
        "ICD E11.9, IBAN DE00 3704 0044 0532 0130 00, SKU AB12-CD34-EF56, order 1234 5678 9012 3456, 中文，没有。",
        "THE APACHELICENSE AND THE SK LETTERS; task-force, desk-top, risk-free, AKIA is a prefix, eyJ too",
    ],
)
def test_ordinary_text_and_code_hold_nothing(text: str) -> None:
    assert find_personal_data(text) == []


def test_a_long_text_without_blanks_takes_little_time() -> None:
    blob = "Ab+/9" * 40_000
    assert [one.kind for one in find_personal_data(f"{blob} x@example.com {blob}")] == ["EMAIL_ADDRESS"]


def stored(folder: Path) -> list[Pair]:
    return [
        pair for side in ("train", "test") for batch in stored_pairs(folder / f"out/{side}.parquet") for pair in batch
    ]


def ingest(folder: Path, mode: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"sources": [str(folder / "a.jsonl")], "test_share": 0.3, "personal_data": mode, **more}
    return run(Folders(folder / "out"), build(IngestConfig, values, "ingest"))


MAILS = [
    {"prompt": f"Mail {i} to jo@example.com", "chosen": "To jo@example.com?", "rejected": "No."} for i in range(20)
]


def test_off_and_report_leave_pairs_as_they_are_and_report_counts_them(tmp_path: Path) -> None:
    plain = ingest(tmp_path, "off", [*text_rows(20), *MAILS])
    pairs = stored(tmp_path)
    counted = ingest(tmp_path, "report", [*text_rows(20), *MAILS])
    assert stored(tmp_path) == pairs
    assert counted.pop("personal_data") == {"pairs": 20, "EMAIL_ADDRESS": 40}
    assert counted == plain


def test_mask_puts_the_kind_in_its_place(tmp_path: Path) -> None:
    metrics = ingest(tmp_path, "mask", [*text_rows(20), *MAILS])
    masked = {pair.prompt: pair.chosen for pair in stored(tmp_path) if pair.prompt.startswith("Mail")}
    assert len(masked) == 20
    assert masked["Mail 7 to <EMAIL_ADDRESS>"] == "To <EMAIL_ADDRESS>?"
    assert metrics["personal_data"] == {"pairs": 20, "EMAIL_ADDRESS": 40}


def test_drop_leaves_pairs_out_and_they_are_not_faulty(tmp_path: Path) -> None:
    metrics = ingest(tmp_path, "drop", [*text_rows(20), *MAILS])
    assert metrics["left_out"]["personal_data"] == 20
    assert (metrics["left_out"]["rejected"], metrics["rejected"]) == (0, {})
    lines = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert lines[0] == {"source": "a.jsonl:21", "reason": "personal_data", "detail": "it holds EMAIL_ADDRESS"}
    assert "jo@" not in (tmp_path / "out/rejects.jsonl").read_text() + json.dumps(metrics)


def test_messages_tool_calls_and_tools_are_masked_and_stay_json() -> None:
    call = '{"tool_calls":[{"function":{"arguments":{"id":2125550123,"to":"jo@example.com"},"name":"mail"}}]}'
    turns = (Message("user", "Mail jo@example.com"), Message("assistant", "", call))
    pair = Pair(turns, "Done.", "No.", inputs='{"documents":["+49 30 901820 \\" quote"]}')
    screen = PersonalData("mask")
    masked = screen.check(pair)
    assert isinstance(masked, Pair)
    assert masked.prompt[0].content == "Mail <EMAIL_ADDRESS>"  # type: ignore[union-attr]
    assert masked.prompt[1].extra == call.replace("jo@example.com", "<EMAIL_ADDRESS>")  # type: ignore[union-attr]
    assert json.loads(masked.inputs) == {"documents": ['<PHONE_NUMBER> " quote']}
    assert screen.counts == {"pairs": 1, "EMAIL_ADDRESS": 2, "PHONE_NUMBER": 1}


def test_replies_that_differ_in_personal_data_alone_are_left_out_when_masked() -> None:
    taken = PersonalData("mask").check(Pair("Whom?", "a@example.com", "b@example.com", source="a.jsonl:1"))
    assert taken == Rejection("a.jsonl:1", "personal_data", "the replies differ in personal data alone")


@pytest.mark.parametrize(("mode", "kept"), [("mask", "<EMAIL_ADDRESS>"), ("report", "jo@example.com")])
def test_lone_thumbs_that_are_kept_are_masked_too(tmp_path: Path, mode: str, kept: str) -> None:
    thumbs = [{"prompt": f"Q{i}", "completion": "jo@example.com", "label": True} for i in range(3)]
    sources = {"sources": [str(tmp_path / "a.jsonl"), str(tmp_path / "thumbs.jsonl")]}
    (tmp_path / "thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in thumbs))
    ingest(tmp_path, mode, text_rows(20), **sources)
    lines = [json.loads(line) for line in (tmp_path / "out/unpaired.jsonl").read_text().splitlines()]
    assert [line["completion"] for line in lines] == [kept] * 3
    ingest(tmp_path, "drop", text_rows(20), **sources)
    assert not (tmp_path / "out/unpaired.jsonl").exists()


def test_what_looks_at_pairs_travels_to_another_process_with_its_counts() -> None:
    screen = PersonalData("report")
    screen.check(Pair("jo@example.com", "a", "b"))
    assert pickle.loads(pickle.dumps(screen)).counts == {"pairs": 1, "EMAIL_ADDRESS": 1}


def test_no_list_of_domains_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    personal_data._detectors.cache_clear()
    assert find_personal_data("jo@example.co.uk")


@pytest.mark.parametrize("missing", ["presidio_analyzer", "detect_secrets.plugins.aws"])
def test_without_the_extra_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    personal_data._detectors.cache_clear()
    with pytest.raises(ConfigError, match=r"needs presidio-analyzer and detect-secrets .*pip install .*\[hygiene\]"):
        ingest(tmp_path, "report", text_rows(20))
    monkeypatch.undo()
    ingest(tmp_path, "report", text_rows(20))
