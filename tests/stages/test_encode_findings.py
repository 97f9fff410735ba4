"""What the encode stage refuses and warns of: dropped pairs, cut replies, unknown tokens, rows without positions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks import encode
from tasks import ingest as ingestion
from tasks.core.errors import DataError
from tasks.ingest import IngestConfig
from tasks.pairs.encoding.encoder import EncodeConfig, EncoderFacts
from tasks.pairs.encoding.findings import warn_of_losses
from tasks.pairs.encoding.positions import Positions
from tasks.pairs.encoding.tally import Tally
from tests.pairs.samples import pinned_base, read_lines, text_rows, write_rows

STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def folders(tmp_path: Path, rows: list[dict[str, Any]], model: Path) -> encode.Folders:
    source = str(write_rows(tmp_path / "a.jsonl", rows))
    ingestion.run(ingestion.Folders(tmp_path / "pairs"), IngestConfig((source,), test_share=0.3))
    pinned_base(tmp_path / "base", model)
    return encode.Folders(tmp_path / "pairs", tmp_path / "base", tmp_path / "tokens", tmp_path / "runs/dropped.jsonl")


@pytest.fixture
def model(shared: Path, tmp_path: Path) -> Path:
    copied: Path = shutil.copytree(shared / "models/stories260K", tmp_path / "model")
    return copied


def of_config(model: Path, **values: Any) -> Path:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").chmod(0o644)
    (model / "config.json").write_text(json.dumps(config | values))
    return model


def test_too_many_dropped_pairs_stop_the_stage_and_their_list_outlives_it(tmp_path: Path, model: Path) -> None:
    system = [{"role": "system", "content": "Be kind."}]
    rows = [
        {**row, "prompt": [*(system if i % 2 else []), {"role": "user", "content": row["prompt"]}]}
        for i, row in enumerate(text_rows(40))
    ]
    (tmp_path / "strict.jinja").write_text(STRICT)
    where = folders(tmp_path, rows, model)
    config = EncodeConfig(chat_template=str(tmp_path / "strict.jinja"))
    with pytest.raises(DataError, match=r"20 of 40 .*template_refused 20.*System role not supported") as refusal:
        encode.run(where, config)
    assert str(where.dropped) in str(refusal.value)
    assert len(list(read_lines(where.dropped))) == 20
    assert not where.tokens.exists()

    # the advice helps
    relaxed = EncodeConfig(chat_template=config.chat_template, max_dropped_share=0.5)
    assert encode.run(where, relaxed)["train"]["pairs"] > 0


def test_rows_beyond_learned_positions_are_refused_and_the_advice_helps(tmp_path: Path, model: Path) -> None:
    rows = [{**row, "prompt": row["prompt"] + " and then" * 20} for row in text_rows(20)]
    base = of_config(model, model_type="gpt2", n_positions=32, max_position_embeddings=32)
    where = folders(tmp_path, rows, base)
    with pytest.raises(DataError, match=r"20 rows are longer than the base model's 32 positions") as refusal:
        encode.run(where, EncodeConfig())
    assert "to at most 32 together" in str(refusal.value)
    encode.run(where, EncodeConfig(max_prompt_tokens=16, max_completion_tokens=16))


def test_rows_beyond_computed_positions_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    positions = Positions.of({"text_config": {"model_type": "llama", "max_position_embeddings": 64}})
    assert positions == Positions(64, is_learned=False)
    positions.check(0, 64)
    assert not caplog.records
    positions.check(3, 80)
    assert "3 rows are longer than the base model's 64 positions" in caplog.text
    assert Positions.of({"model_type": "bloom"}) is None


def test_cut_replies_unknown_tokens_and_plain_text_are_each_warned_of_once(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encode.run(folders(tmp_path, text_rows(20), model), EncodeConfig(max_completion_tokens=3))
    assert len([line for line in caplog.records if "replies are cut" in line.getMessage()]) == 1

    caplog.clear()
    facts = EncoderFacts("auto", "", (2,), 64, lacks_bos=False, unk_id=0)
    warn_of_losses({"train": Tally(unknown=2, plain=3)}, facts, "completion")
    unknown, plain = (line.getMessage() for line in caplog.records)
    assert "unknown tokens" in unknown
    assert "set encode.text_as: chat" in plain
    caplog.clear()
    warn_of_losses({"train": Tally(plain=3)}, facts, "chat")
    assert not caplog.records
