"""The encode stage on real pairs and real tokenizers: the cache, the prompts, and what is listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.errors import ArtifactError, ConfigError, DataError
from tasks.core.params import build, load_params
from tasks.encode import run
from tasks.ingest import IngestConfig
from tasks.ingest import run as ingest
from tasks.pairs.cache import open_tokens
from tasks.pairs.encoding import EncodeConfig
from tasks.pairs.store import stored_pairs
from tests.conftest import ROOT
from tests.pairs.samples import folder_bytes, pinned_base, read_lines, real_tokenizer, text_rows, write_rows


@pytest.fixture(scope="module")
def bases(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pinned local bases, called by their folders' names."""
    folder = tmp_path_factory.mktemp("bases")
    for source in ("models/stories260K", "tokenizers/minimind-6400"):
        pinned_base(folder / Path(source).name, shared / source)
    return folder


@pytest.fixture(scope="module")
def pandalm(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ingested conversations, several pairs a prompt."""
    out = tmp_path_factory.mktemp("pandalm") / "pairs"
    ingest(out, IngestConfig((str(shared / "preferences/pandalm-testset-v1/pairs.jsonl.gz"),)))
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ingested plain text; some pairs cannot be used."""
    folder = tmp_path_factory.mktemp("plain")
    odd = [{"prompt": f"Odd {i}", "chosen": " a</s>b", "rejected": " c", "slice": "odd"} for i in range(30)]
    ingest(
        folder / "pairs", IngestConfig((str(write_rows(folder / "a.jsonl", [*text_rows(90), *odd])),), test_share=0.3)
    )
    return folder / "pairs"


def test_every_pair_is_in_the_cache_or_listed_with_its_reason(plain: Path, bases: Path, tmp_path: Path) -> None:
    metrics = run(plain, bases / "stories260K", tmp_path / "tokens", EncodeConfig())
    dropped = list(read_lines(tmp_path / "tokens/dropped.jsonl"))
    assert {line["reason"] for line in dropped} == {"eos_in_reply"}
    for split in ("train", "test"):
        pairs = [pair for batch in stored_pairs(plain / f"{split}.parquet") for pair in batch]
        tokens = open_tokens(tmp_path / "tokens", split)
        listed = {line["pair_id"] for line in dropped if line["split"] == split}
        assert [name.decode() for name in tokens.pair_ids] == [p.pair_id for p in pairs if p.pair_id not in listed]
        assert listed == {pair.pair_id for pair in pairs if pair.slice == "odd"}
        assert metrics[split]["pairs"] == len(tokens)
        assert metrics[split]["dropped"] == {"eos_in_reply": len(listed)}
        assert metrics[split]["tokens"] == tokens.ids.size


def test_the_cache_decodes_to_the_conversations(pandalm: Path, bases: Path, shared: Path, tmp_path: Path) -> None:
    config = EncodeConfig(max_prompt_tokens=4000, max_completion_tokens=4000)
    run(pandalm, bases / "minimind-6400", tmp_path / "tokens", config)
    tokenizer = real_tokenizer(shared / "tokenizers/minimind-6400")
    tokens = open_tokens(tmp_path / "tokens", "test")
    pairs = [pair for batch in stored_pairs(pandalm / "test.parquet") for pair in batch]
    for i, pair in enumerate(pairs):
        row = tokens.row(i)
        assert tokens.prompt_ids[i].decode() == pair.prompt_id
        assert tokenizer.decode(row.chosen) == pair.chosen + "<|im_end|>"
        assert tokenizer.decode(row.rejected) == pair.rejected + "<|im_end|>"
        assert pair.prompt[-1].content in tokenizer.decode(row.prompt)  # type: ignore[union-attr]


def test_prompts_are_the_distinct_held_out_prompts_in_order(
    pandalm: Path, bases: Path, shared: Path, tmp_path: Path
) -> None:
    metrics = run(pandalm, bases / "minimind-6400", tmp_path / "tokens", EncodeConfig(max_prompt_tokens=64))
    prompts = list(read_lines(tmp_path / "tokens/prompts.jsonl"))
    pairs = [pair for batch in stored_pairs(pandalm / "test.parquet") for pair in batch]
    assert [line["prompt_id"] for line in prompts] == list(dict.fromkeys(pair.prompt_id for pair in pairs))
    assert metrics["prompts"] == len(prompts)
    tokenizer = real_tokenizer(shared / "tokenizers/minimind-6400")
    first = prompts[0]
    assert first["question"] == first["display"] == pairs[0].prompt[0].content  # type: ignore[union-attr]
    assert (first["gold_chosen"], first["gold_rejected"]) == (pairs[0].chosen, pairs[0].rejected)
    for line in prompts:
        assert len(line["ids"]) <= 64
        assert tokenizer.decode(line["ids"]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert metrics["test"]["cut"]["prompt"] > 0


def test_both_branches_keep_the_same_prompt_under_truncation(pandalm: Path, bases: Path, tmp_path: Path) -> None:
    short = EncodeConfig(max_prompt_tokens=24, max_completion_tokens=12)
    run(pandalm, bases / "minimind-6400", tmp_path / "short", short)
    run(pandalm, bases / "minimind-6400", tmp_path / "long", EncodeConfig(4000, 4000))
    short_rows, long_rows = open_tokens(tmp_path / "short", "train"), open_tokens(tmp_path / "long", "train")
    places = {name: i for i, name in enumerate(long_rows.pair_ids.tolist())}
    assert short_rows.lengths[:, 0].max() == 24
    assert short_rows.lengths[:, 1:].max() == 12
    for i, name in enumerate(short_rows.pair_ids.tolist()):
        cut, whole = short_rows.row(i), long_rows.row(places[name])
        assert np.array_equal(cut.prompt, whole.prompt[-24:])
        assert np.array_equal(cut.chosen, whole.chosen[:12])
        assert np.array_equal(cut.rejected, whole.rejected[:12])


def test_running_twice_gives_the_same_bytes(plain: Path, bases: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(plain, bases / "stories260K", tmp_path / name, EncodeConfig())
    first = folder_bytes(tmp_path / "first")
    assert first == folder_bytes(tmp_path / "second")
    assert str(tmp_path).encode() not in b"".join(first.values())


@pytest.mark.parametrize(
    "change",
    [{"max_prompt_tokens": 4}, {"max_completion_tokens": 3}, {"chat_template": "plain", "text_as": "chat"}],
    ids=str,
)
def test_each_param_that_changes_a_row_changes_the_digest(
    plain: Path, bases: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    run(plain, bases / "stories260K", tmp_path / "a", EncodeConfig())
    run(plain, bases / "stories260K", tmp_path / "b", EncodeConfig(**change))
    assert open_tokens(tmp_path / "a", "test").digest() != open_tokens(tmp_path / "b", "test").digest()


def test_the_template_and_the_stop_ids_stand_beside_the_tokens(pandalm: Path, bases: Path, tmp_path: Path) -> None:
    run(pandalm, bases / "minimind-6400", tmp_path / "tokens", EncodeConfig())
    template = json.loads((tmp_path / "tokens/template.json").read_text())
    assert template["kind"] == "auto"
    assert "<think>" in template["template"]
    assert template["eos_token_ids"] == [2]


def test_conversations_for_a_base_without_a_template_are_refused(pandalm: Path, bases: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set `encode\.chat_template: plain`"):
        run(pandalm, bases / "stories260K", tmp_path / "tokens", EncodeConfig())
    assert not list(tmp_path.iterdir())


def test_a_split_of_which_nothing_is_left_is_refused_with_the_reasons(plain: Path, bases: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pair of the train set is left; dropped: .*prompt_too_long"):
        run(plain, bases / "stories260K", tmp_path / "tokens", EncodeConfig(max_prompt_tokens=2, truncation="drop"))
    assert not list(tmp_path.iterdir())


def test_missing_and_damaged_pairs_are_refused(plain: Path, bases: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run `dvc repro ingest`"):
        run(tmp_path / "nowhere", bases / "stories260K", tmp_path / "tokens", EncodeConfig())
    for path in plain.iterdir():
        (tmp_path / "pairs").mkdir(exist_ok=True)
        (tmp_path / "pairs" / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "pairs/train.parquet"
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    with pytest.raises(ArtifactError, match=r"train\.parquet"):
        run(tmp_path / "pairs", bases / "stories260K", tmp_path / "tokens", EncodeConfig())


def test_a_base_without_a_tokenizer_is_refused(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text('{"model_type": "llama"}')
    base = pinned_base(tmp_path / "base", tmp_path / "model")
    with pytest.raises(ArtifactError, match="no tokenizer that loads"):
        run(plain, base, tmp_path / "tokens", EncodeConfig())


def test_the_params_file_s_section_is_the_config_s_defaults() -> None:
    for path in (ROOT / "params.yaml", ROOT / "params.d/encode.yaml"):
        if path.is_file():
            assert build(EncodeConfig, load_params(path)["encode"], "encode").chat_template == "auto"
