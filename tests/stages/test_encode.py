"""The encode stage on real pairs and real tokenizers: the cache, the prompts, and what is listed."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks import encode
from tasks import ingest as ingestion
from tasks.core.errors import ArtifactError, ConfigError, DataError
from tasks.core.files import atomic_folder
from tasks.core.params import build, load_params
from tasks.encode import main
from tasks.ingest import IngestConfig
from tasks.pairs.encoding.encoder import EncodeConfig
from tasks.pairs.record.parquet import PairWriter, stored_pairs
from tasks.pairs.tokens.token_cache import open_tokens
from tasks.rowstore.row_store import RowStore
from tests.conftest import ROOT
from tests.pairs.samples import folder_bytes, pinned_base, read_lines, real_tokenizer, text_rows, write_rows


def run(pairs: Path, base: Path, out: Path, config: EncodeConfig, rows: RowStore | None = None) -> dict[str, Any]:
    """Run the stage on data of which a quarter may be unusable."""
    config = dataclasses.replace(config, max_dropped_share=1.0)
    return encode.run(encode.Folders(pairs, base, out), config, rows, kept=out.parent / "kept")


def ingest(out: Path, config: IngestConfig) -> dict[str, Any]:
    return ingestion.run(ingestion.Folders(out), config)


@pytest.fixture(scope="module")
def bases(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pinned local bases, called by their folders' names."""
    folder = tmp_path_factory.mktemp("bases")
    for source in ("models/stories260K", "tokenizers/minimind-6400"):
        pinned_base(folder / Path(source).name, shared / source)
    return folder


def sample(pairs: Path, folder: Path) -> Path:
    """Write every second pair of an ingested folder as an ingested folder."""
    with atomic_folder(folder, {"stage": "ingest"}) as draft:
        for split in ("train", "test"):
            with PairWriter(draft / f"{split}.parquet") as writer:
                for pair in [pair for batch in stored_pairs(pairs / f"{split}.parquet") for pair in batch][::2]:
                    writer.append(pair)
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


def test_the_output_is_the_same_bytes_with_a_cold_a_half_warm_a_warm_store_and_none(
    plain: Path, pandalm: Path, bases: Path, tmp_path: Path
) -> None:
    rows = RowStore.open(tmp_path / "rows", "encode")
    for pairs, base in ((plain, "stories260K"), (pandalm, "minimind-6400")):
        half = sample(pairs, tmp_path / f"half-{base}")
        config = EncodeConfig(max_prompt_tokens=64)
        run(half, bases / base, tmp_path / "half", config, rows)  # cold
        run(pairs, bases / base, tmp_path / "half warm", config, rows)
        run(pairs, bases / base, tmp_path / "warm", config, rows)
        run(pairs, bases / base, tmp_path / "none", config)
        run(half, bases / base, tmp_path / "half none", config)
        assert folder_bytes(tmp_path / "half") == folder_bytes(tmp_path / "half none")
        assert folder_bytes(tmp_path / "half warm") == folder_bytes(tmp_path / "none")
        assert folder_bytes(tmp_path / "warm") == folder_bytes(tmp_path / "none")


def test_when_every_row_is_known_the_tokenizer_is_not_even_loaded(pandalm: Path, bases: Path, tmp_path: Path) -> None:
    rows = RowStore.open(tmp_path / "rows", "encode")
    run(pandalm, bases / "minimind-6400", tmp_path / "cold", EncodeConfig(), rows)
    places = [pandalm, bases / "minimind-6400", tmp_path / "warm", tmp_path / "rows"]
    code = """
import sys
from pathlib import Path
from tasks.rowstore.row_store import RowStore
from tasks.encode import Folders, run
from tasks.pairs.encoding.encoder import EncodeConfig
pairs, base, out, rows = map(Path, sys.argv[1:])
run(Folders(pairs, base, out), EncodeConfig(), RowStore.open(rows, "encode"))
print([name for name in ("torch", "transformers", "tokenizers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, *places], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert folder_bytes(tmp_path / "warm") == folder_bytes(tmp_path / "cold")


def test_another_template_in_the_tokenizer_s_files_is_not_answered_with_old_rows(
    pandalm: Path, shared: Path, bases: Path, tmp_path: Path
) -> None:
    rows = RowStore.open(tmp_path / "rows", "encode")
    run(pandalm, bases / "minimind-6400", tmp_path / "old", EncodeConfig(), rows)
    shutil.copytree(shared / "tokenizers/minimind-6400", tmp_path / "changed")
    path = tmp_path / "changed/tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["chat_template"] = settings["chat_template"].replace("<think>", "<thought>")
    path.write_text(json.dumps(settings))
    base = pinned_base(tmp_path / "base", tmp_path / "changed")
    run(pandalm, base, tmp_path / "stored", EncodeConfig(), rows)
    run(pandalm, base, tmp_path / "storeless", EncodeConfig())
    assert folder_bytes(tmp_path / "stored") == folder_bytes(tmp_path / "storeless")
    assert open_tokens(tmp_path / "stored", "test").digest() != open_tokens(tmp_path / "old", "test").digest()


def test_weights_only_are_no_reason_to_encode_again(plain: Path, bases: Path, shared: Path, tmp_path: Path) -> None:
    rows = RowStore.open(tmp_path / "rows", "encode")
    run(plain, bases / "stories260K", tmp_path / "first", EncodeConfig(), rows)
    before = sorted(rows.folder.iterdir())
    shutil.copytree(shared / "models/stories260K", tmp_path / "trained on")
    with (tmp_path / "trained on/model.safetensors").open("ab") as stream:
        stream.write(b"other weights")
    base = pinned_base(tmp_path / "base", tmp_path / "trained on")
    run(plain, base, tmp_path / "second", EncodeConfig(), rows)
    assert sorted(rows.folder.iterdir()) == before
    first, second = (open_tokens(tmp_path / name, "train").digest() for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize(("location", "segments"), [("runs/rows", 1), ("", 0)])
def test_the_rows_lie_where_runtime_says_and_nowhere_when_it_says_nothing(
    plain: Path, bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, segments: int
) -> None:
    shutil.copytree(plain, tmp_path / "data/pairs")
    shutil.copytree(bases / "stories260K", tmp_path / "data/base")
    (tmp_path / "params.yaml").write_text(f"encode: {{max_dropped_share: 1.0}}\nruntime: {{row_store: '{location}'}}\n")
    monkeypatch.chdir(tmp_path)
    main()
    assert len(list((tmp_path / "runs").glob("rows/encode/*.parquet"))) == segments
    notes = json.loads((tmp_path / "runs/receipts/encode.json").read_text())["notes"]
    assert (notes["pairs_from_row_store"], notes["pairs_tokenised"]) == (0, 120)


def test_weights_and_margins_go_with_their_rows(bases: Path, tmp_path: Path) -> None:
    source: list[dict[str, Any]] = [{**row, "weight": i + 1, "margin": -i / 4} for i, row in enumerate(text_rows(60))]
    source[7]["chosen"] = " a</s>b"  # dropped: what follows must not move up
    ingest(tmp_path / "pairs", IngestConfig((str(write_rows(tmp_path / "a.jsonl", source)),), test_share=0.3))
    run(tmp_path / "pairs", bases / "stories260K", tmp_path / "tokens", EncodeConfig())
    number = {f"Question {i}?": i for i in range(60) if i != 7}
    for split in ("train", "test"):
        pairs = [pair for batch in stored_pairs(tmp_path / f"pairs/{split}.parquet") for pair in batch]
        expected = [number[pair.prompt] for pair in pairs if pair.prompt in number]
        tokens = open_tokens(tmp_path / "tokens", split)
        assert tokens.weights.tolist() == [i + 1 for i in expected]
        assert tokens.margins.tolist() == [-i / 4 for i in expected]


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
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_missing_and_damaged_pairs_are_refused(plain: Path, bases: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run `dvc repro ingest`"):
        run(tmp_path / "nowhere", bases / "stories260K", tmp_path / "tokens", EncodeConfig())
    shutil.copytree(plain, tmp_path / "pairs")
    damaged = tmp_path / "pairs/train.parquet/00000.parquet"
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    with pytest.raises(ArtifactError, match=r"train\.parquet"):
        run(tmp_path / "pairs", bases / "stories260K", tmp_path / "tokens", EncodeConfig())


def test_a_file_among_the_shards_that_ingest_did_not_write_is_refused(plain: Path, bases: Path, tmp_path: Path) -> None:
    pairs, stranger = tmp_path / "pairs", tmp_path / "pairs/train.parquet/more.parquet"
    shutil.copytree(plain, pairs)
    shutil.copy(plain / "test.parquet/00000.parquet", stranger)
    with pytest.raises(ArtifactError, match=r"more\.parquet is not in the manifest of .*pairs — remove it"):
        run(pairs, bases / "stories260K", tmp_path / "tokens", EncodeConfig())
    stranger.unlink()
    run(pairs, bases / "stories260K", tmp_path / "tokens", EncodeConfig())


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
