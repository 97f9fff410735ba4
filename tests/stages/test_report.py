from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.files import MANIFEST, manifest_digest, read_manifest, verify_manifest, write_manifest
from tasks.core.params import load_section
from tasks.report import Folders, ReportConfig, run
from tests.page.samples import CONFIG, PARAMS, distrusted, make_folders

ROOT = Path(__file__).resolve().parents[2]


def _small(root: Path, **changes) -> Folders:
    return make_folders(root, **{"prompts": 40, "pairs": 64, **changes})


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _remanifest(folder: Path) -> None:
    """Vouch anew for a folder that a test has altered."""
    about = json.loads((folder / MANIFEST).read_text())
    write_manifest(folder, {key: value for key, value in about.items() if key != "files"})


def test_the_stage_writes_page_card_and_manifest(tmp_path):
    folders = _small(tmp_path)
    run(folders, PARAMS, CONFIG)
    manifest = verify_manifest(folders.out, "report")
    curves = {f"curves/{name}.svg" for name in ("loss", "accuracy", "margin", "logps")}
    assert set(manifest["files"]) == {"report.html", "README.md", *curves}
    assert manifest["inputs"]["adapter"] == manifest_digest(folders.adapter, "train")
    assert manifest["inputs"]["winrate"] == manifest_digest(folders.winrate, "winrate")


def test_the_same_inputs_give_the_same_bytes_wherever_they_lie(tmp_path):
    first, second = _small(tmp_path / "a"), _small(tmp_path / "elsewhere/b")
    run(first, PARAMS, CONFIG)
    run(second, PARAMS, CONFIG)
    assert _hashes(first.out) == _hashes(second.out)


def test_neither_page_nor_card_tells_where_it_was_made(tmp_path):
    folders = _small(tmp_path)
    run(folders, PARAMS, CONFIG)
    for name in ("report.html", "README.md"):
        text = (folders.out / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert os.uname().nodename not in text


def test_every_judged_prompt_is_shown_in_the_order_of_ids_and_a_few_stand_open(tmp_path):
    folders = _small(tmp_path, prompts=100)
    facts = run(folders, PARAMS, CONFIG)
    lines = (tmp_path / "results/winrate/scores.jsonl").read_text().splitlines()
    assert [one.prompt_id for one in facts.answers.prompts] == sorted(json.loads(line)["prompt_id"] for line in lines)
    page = (folders.out / "report.html").read_text(encoding="utf-8")
    assert "All 100\u00a0judged prompts" in page
    assert page.count('<details class="one') == 100
    assert len(re.findall(r'<details class="one[^>]* open>', page)) == CONFIG.examples


def test_no_prompt_stands_open_when_none_is_asked_for(tmp_path):
    folders = _small(tmp_path)
    run(folders, PARAMS, ReportConfig(title="t", license=None, examples=0))
    page = (folders.out / "report.html").read_text(encoding="utf-8")
    assert page.count('<details class="one') == 40
    assert not re.findall(r'<details class="one[^>]* open>', page)


def test_a_win_rate_beside_a_failed_guard_is_logged_as_not_to_be_believed(tmp_path, caplog):
    with caplog.at_level("INFO"):
        run(_small(tmp_path, winrate=distrusted), PARAMS, CONFIG)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("Not to be believed: the guard judge_agreement failed. Measured was a win rate")


def test_params_of_the_stages_are_shown_and_other_sections_are_not(tmp_path):
    folders = _small(tmp_path)
    run(folders, PARAMS, CONFIG)
    text = (folders.out / "report.html").read_text(encoding="utf-8")
    assert "lora.target_modules" in text
    assert "must not be shown" not in text


@pytest.mark.parametrize(
    ("folder", "stage"),
    [("base", "base"), ("pairs", "ingest"), ("tokens", "encode"), ("adapter", "train"), ("responses", "respond")],
)
def test_an_unfinished_input_folder_is_refused_by_name_and_nothing_is_written(tmp_path, folder, stage):
    folders = _small(tmp_path)
    (getattr(folders, folder) / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match=f"dvc repro {stage}"):
        run(folders, PARAMS, CONFIG)
    assert not folders.out.exists()


def test_a_missing_metric_is_named_with_file_and_key_and_an_old_page_stays(tmp_path):
    folders = _small(tmp_path)
    run(folders, PARAMS, CONFIG)
    before = _hashes(folders.out)
    _small(tmp_path, winrate=lambda metrics: metrics.pop("lower_bound"))
    with pytest.raises(ArtifactError, match=r"`lower_bound` is missing in .*results/winrate/metrics.json"):
        run(folders, PARAMS, CONFIG)
    assert _hashes(folders.out) == before


def test_a_missing_train_metric_is_named_with_file_and_key(tmp_path):
    folders = _small(tmp_path, train=lambda metrics: metrics["after"].pop("logp_chosen"))
    with pytest.raises(ArtifactError, match=r"`logp_chosen` is missing in .*results/train/metrics.json → after"):
        run(folders, PARAMS, CONFIG)


def test_rows_that_are_not_accounted_for_are_refused(tmp_path):
    folders = _small(tmp_path)
    rejects = folders.pairs / "rejects.jsonl"
    rejects.write_text("".join(rejects.read_text().splitlines(keepends=True)[1:]))
    _remanifest(folders.pairs)
    with pytest.raises(ArtifactError, match="does not account for each of the 181 rows read"):
        run(folders, PARAMS, CONFIG)


def test_a_judged_prompt_without_an_answer_is_refused_by_id(tmp_path):
    folders = _small(tmp_path)
    answers = folders.responses / "responses.jsonl"
    kept = [line for line in answers.read_text().splitlines(keepends=True) if '"side": "policy"' not in line]
    answers.write_text("".join(kept))
    _remanifest(folders.responses)
    with pytest.raises(ArtifactError, match=r"prompt [0-9a-f]{16} was judged but has no answer of the policy"):
        run(folders, PARAMS, CONFIG)


def test_answers_of_another_adapter_are_refused_rather_than_reported(tmp_path):
    folders = _small(tmp_path)
    (folders.adapter / "adapter_config.json").write_text('{"r": 16}\n')
    _remanifest(folders.adapter)
    with pytest.raises(ArtifactError, match=r"data/responses was made from another `adapter`.*dvc repro respond"):
        run(folders, PARAMS, CONFIG)


def test_a_corrupt_token_cache_is_refused_by_name(tmp_path):
    folders = _small(tmp_path)
    (folders.tokens / "test.lengths.npy").write_bytes(b"not an array")
    _remanifest(folders.tokens)
    with pytest.raises(ArtifactError, match=r"test.lengths.npy cannot be read"):
        run(folders, PARAMS, CONFIG)


def test_prompts_without_a_verdict_are_shown_as_such(tmp_path):
    folders = _small(tmp_path)
    scores = folders.winrate / "scores.jsonl"
    rows = [json.loads(line) | {"score": None} for line in scores.read_text().splitlines()]
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _remanifest(folders.winrate)
    run(folders, PARAMS, CONFIG)
    assert "no verdict" in (folders.out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"title": " "}, "report.title"),
        ({"examples": -1}, "report.examples"),
        ({"examples": 1000}, "report.examples"),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(change, told):
    values = {"title": "t", "license": None, "examples": 1}
    with pytest.raises(ConfigError, match=told):
        ReportConfig(**{**values, **change})


def test_the_stage_starts_without_torch_and_reads_its_params(tmp_path):
    folders = _small(tmp_path)
    (tmp_path / "params.yaml").write_text("report: {title: From the command line, license: null, examples: 2}\n")
    code = (
        "import sys, tasks.report as r; r.main(); "
        "heavy = {'torch', 'transformers', 'matplotlib', 'prefect', 'pandas'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "From the command line" in (folders.out / "README.md").read_text(encoding="utf-8")
    assert load_section(tmp_path / "params.yaml", "report", ReportConfig).examples == 2
    assert read_manifest(folders.out, "report")["stage"] == "report"
