"""The stage `train`: its outputs, its refusals, and a run that is stopped and killed and still ends the same."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import math
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from peft import PeftModel

from tasks import reference, train
from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, Busy, ConfigError
from tasks.core.params import build
from tasks.dpo.model.base_loading import load_base
from tasks.dpo.training.train_config import TrainConfig
from tests.dpo import tiny
from tests.ports import free_ports
from tests.small_disk import small_disk
from tests.stages import project

RUNTIME = tiny.budget(4096)


def folders(root: Path) -> train.Folders:
    return train.Folders(
        tokens=root / "data/tokens",
        reference=root / "data/reference",
        base=root / "data/base",
        init_adapter=root / "data/adapters/init",
        adapter=root / "models/adapter",
        results=root / "results/train",
        runs=root / "runs/train",
    )


def score(root: Path) -> None:
    where = folders(root)
    at = reference.Folders(where.tokens, where.base, where.init_adapter, where.reference)
    reference.run(at, reference.ReferenceConfig(), RUNTIME)


@functools.cache
def ready_files(pairs: int) -> dict[Path, bytes]:
    with tempfile.TemporaryDirectory() as name:
        root = project.build(Path(name), pairs)
        score(root)
        return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_reference_and_training_compute_in_the_type_of_the_base_or_not_at_all(tmp_path: Path) -> None:
    root = project.build(tmp_path, pairs=6)
    project.write_base(root, compute_dtype="bfloat16")
    score(root)
    metrics = train.run(folders(root), build(TrainConfig, {**project.TRAIN, "epochs": 1}, "train"), RUNTIME)
    assert metrics["before"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert metrics["before"]["margin"] == 0
    project.write_base(root)
    with pytest.raises(ArtifactError, match=r"`base.compute_dtype` bfloat16, which is auto now — run `dvc repro ref"):
        train.run(folders(root), build(TrainConfig, project.TRAIN, "train"), RUNTIME)


def ready(root: Path, pairs: int = 12) -> Path:
    """Write a project whose reference stage has run."""
    for name, data in ready_files(pairs).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def config(**changes: object) -> TrainConfig:
    return build(TrainConfig, {**project.TRAIN, **changes}, "train")


def outputs(root: Path) -> dict[str, bytes]:
    return project.contents(root / "models/adapter", root / "results/train")


def test_it_writes_an_adapter_and_the_curves_of_its_training(tmp_path: Path):
    root = ready(tmp_path)
    metrics = train.run(folders(root), config(), RUNTIME)
    assert sorted(outputs(root)) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/manifest.json",
        "train/evals.csv",
        "train/manifest.json",
        "train/metrics.json",
        "train/steps.csv",
    ]
    assert json.loads((root / "results/train/metrics.json").read_text()) == metrics
    assert metrics["pairs"] == {"train": 12, "test": 7}
    assert (metrics["steps"], metrics["epochs"]) == (18, 3)
    assert metrics["before"]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert metrics["train_loss_first"] == pytest.approx(math.log(2), abs=1e-4)
    assert metrics["before"]["accuracy"] == 0.5
    steps, evals = (
        list(csv.DictReader((root / f"results/train/{name}.csv").read_text().splitlines()))
        for name in ("steps", "evals")
    )
    assert [row["step"] for row in steps] == [str(k) for k in range(1, 19)]
    assert (
        {"loss", "accuracy", "margin", "reward_chosen", "reward_rejected", "logp_chosen", "logp_rejected"}
        <= set(evals[0])
        < set(steps[0])
    )
    assert {"grad_norm", "learning_rate"} <= set(steps[0])
    assert [row["step"] for row in evals] == ["0", "4", "9", "14", "18"]
    assert float(evals[-1]["loss"]) == metrics["after"]["loss"]
    assert not (root / "runs/train").exists() or not any((root / "runs/train").iterdir()), "checkpoints went"


def test_peft_loads_the_stage_s_adapter_on_the_pinned_base(tmp_path: Path):
    root = ready(tmp_path)
    train.run(folders(root), config(), RUNTIME)
    base = BaseModel.open(root / "data/base")
    model = PeftModel.from_pretrained(load_base(base), str(root / "models/adapter"))
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        assert not torch.allclose(model(input_ids=ids).logits, load_base(base)(input_ids=ids).logits, atol=1e-3)


def test_two_places_give_the_same_bytes_but_for_the_name_of_the_base(tmp_path: Path):
    one, other = (ready(tmp_path / name) for name in ("here", "a place elsewhere"))
    for root in (one, other):
        train.run(folders(root), config(epochs=1), RUNTIME)
    differing = {name for name, data in outputs(one).items() if outputs(other)[name] != data}
    # run() was given absolute folders here; main() binds `data/base`, the same on every machine
    assert differing == {"adapter/adapter_config.json", "adapter/manifest.json"}


def test_another_seed_trains_another_adapter_on_the_same_reference(tmp_path: Path):
    root = ready(tmp_path)
    before = project.contents(root / "data/reference")
    weights = set()
    for changes in ({}, {"seed": 8}, {"objective": {"beta": 0.7}}, {"learning_rate": 1e-4}):
        train.run(folders(root), config(epochs=1, evaluations=1, **changes), RUNTIME)
        weights.add(outputs(root)["adapter/adapter_model.safetensors"])
    assert len(weights) == 4
    assert project.contents(root / "data/reference") == before


def test_a_reference_of_an_older_base_is_refused(tmp_path: Path):
    root = ready(tmp_path)
    project.write_base(root, seed=1)
    with pytest.raises(ArtifactError, match="computed with another base than data/base pins"):
        train.run(folders(root), config(), RUNTIME)
    score(root)
    train.run(folders(root), config(), RUNTIME)


def test_a_reference_of_older_tokens_is_refused(tmp_path: Path):
    root = ready(tmp_path)
    project.write_tokens(root, {"train": tiny.pairs(12), "test": tiny.pairs(7, 5)})
    with pytest.raises(ArtifactError, match="computed for other test tokens"):
        train.run(folders(root), config(), RUNTIME)


def test_training_that_diverges_writes_nothing_and_names_the_step(tmp_path: Path):
    root = ready(tmp_path)
    with pytest.raises(ConfigError, match=r"step \d+ has"):
        train.run(folders(root), config(learning_rate=1e6), RUNTIME)
    assert not (root / "models").exists()
    assert not (root / "results").exists()


def fails(monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the stage's main in the project; return its exit code and the one line that tells the error."""
    monkeypatch.chdir(root)
    with pytest.raises(SystemExit) as left:
        train.main()
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("[train] error: ")]
    assert len(lines) == 1
    return int(left.value.code or 0), lines[0]


def break_it(root: Path, how: str) -> None:
    """Do to the project what the case says."""
    if how == "corrupt tokens":
        path = root / "data/tokens/train.ids.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif how == "truncated tokens":
        path = root / "data/tokens/train.ids.npy"
        path.write_bytes(path.read_bytes()[:-6])
    elif how == "unfinished tokens":
        (root / "data/tokens/manifest.json").unlink()
    elif how == "no reference":
        shutil.rmtree(root / "data/reference")
    elif how == "corrupt reference":
        path = root / "data/reference/test.logps.npy"
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif how == "no base":
        shutil.rmtree(root / "data/base")
    elif how == "local base gone":
        manifest = json.loads((root / "data/base/manifest.json").read_text())
        files = {"config.json": {"sha256": "0" * 64, "size": 3}}
        manifest.update(kind="local", source="models/mine", model_files=files)
        (root / "data/base/manifest.json").write_text(json.dumps(manifest))
    elif how == "typo":
        project.write_params(root, lerning_rate=1e-3)
    elif how == "typo in runtime":
        project.write_params(root, runtime={"tokens_per_microbatch": 1})
    elif how == "wrong type":
        project.write_params(root, epochs="three")
    elif how == "wrong layers":
        project.write_params(root, lora={"target_modules": ["q_porj"]})
    elif how == "no params":
        (root / "params.yaml").unlink()
    elif how == "diverges":
        project.write_params(root, learning_rate=1e6)


CASES = {
    "corrupt tokens": "data/tokens/train.ids.npy is corrupt",
    "truncated tokens": "data/tokens/train.ids.npy has ",
    "unfinished tokens": "data/tokens has no manifest.json, so it was never finished",
    "no reference": "data/reference is missing — run `dvc repro reference`",
    "corrupt reference": "data/reference/test.logps.npy does not have the SHA-256 of its manifest",
    "no base": "data/base is missing — run `dvc repro base`",
    "local base gone": "the base model's file models/mine/config.json is missing",
    "typo": "unknown key `train.lerning_rate` — did you mean `learning_rate`?",
    "typo in runtime": "unknown key `runtime.tokens_per_microbatch` — did you mean `tokens_per_micro_batch`?",
    "wrong type": "`train.epochs` is 'three' — write a whole number",
    "wrong layers": "`train.lora.target_modules` does not fit the model",
    "no params": "params.yaml is missing",
    "diverges": "training diverged: ",
}
CONFIG_MISTAKES = ("typo", "typo in runtime", "wrong type", "wrong layers", "no params", "diverges")


@pytest.mark.parametrize("how", CASES)
def test_a_mistake_is_one_clear_line_exit_code_1_and_no_output(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = ready(tmp_path)
    break_it(root, how)
    code, line = fails(monkeypatch, root, capsys)
    assert code == 1
    assert CASES[how] in line
    assert not (root / "models").exists()
    assert not (root / "results").exists()
    receipt = json.loads((root / "runs/receipts/train.json").read_text())
    assert receipt["status"] == ("config" if how in CONFIG_MISTAKES else "artifact")
    assert CASES[how] in receipt["error"]


@pytest.mark.parametrize("disk", ["models", "results", "runs/train"])
def test_a_full_disk_is_one_clear_line_and_no_half_written_output(
    disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    root = ready(tmp_path)
    project.write_params(root, runtime={"checkpoint_every_s": 1e-9})
    with small_disk(root / disk, 4):
        code, line = fails(monkeypatch, root, capsys)
        assert code == 1
        assert "the disk is full — free some space there and run again" in line
        assert disk in line
        assert not (root / "models/adapter").exists()
        assert not (root / "results/train").exists()
        left = [path for folder in ("models", "results") for path in (root / folder).rglob("*") if path.is_file()]
        assert left == []


def wait_for_checkpoint(root: Path, process: subprocess.Popen[str], beyond: int) -> int:
    """Wait until a checkpoint of a later step than ``beyond`` stands; return its step."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, f"training ended before a checkpoint stood: {process.communicate()}"
        steps = [int(path.name[5:]) for path in (root / "runs/train").glob("*/step-*")]
        if max(steps, default=0) > beyond:
            return max(steps)
        time.sleep(0.005)
    raise AssertionError("no checkpoint within two minutes")


def test_stopped_and_killed_and_run_again_it_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    undisturbed, root = (ready(tmp_path / name, pairs=60) for name in ("undisturbed", "disturbed"))
    monkeypatch.chdir(undisturbed)
    train.main()
    project.write_params(root, runtime={"checkpoint_every_s": 1e-9})

    # asked to stop: a checkpoint, one line, exit code 75
    with project.start(root, "train") as process:
        wait_for_checkpoint(root, process, beyond=4)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 75
    assert "Traceback" not in said
    told = [line for line in said.splitlines() if line.startswith("[train] error: ")]
    assert len(told) == 1
    assert "told to stop after step" in told[0]
    receipt = json.loads((root / "runs/receipts/train.json").read_text())
    assert (receipt["status"], receipt["error"].split(":")[0]) == ("preempted", "Preempted")
    assert not (root / "models").exists()

    # killed without a word, somewhere in the middle of a step or of a save
    stood = max(int(path.name[5:]) for path in (root / "runs/train").glob("*/step-*"))
    with project.start(root, "train") as process:
        reached = wait_for_checkpoint(root, process, beyond=stood + 3)
        process.kill()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL
    assert f"going on after step {stood} of 90" in said
    assert reached < 85, "it was killed before its end"
    assert not (root / "models").exists()

    # the reference cache is lost in between; what it is computed anew from has not changed
    shutil.rmtree(root / "data/reference")
    project.write_params(root)
    monkeypatch.chdir(root)
    reference.main()
    assert project.contents(root / "data/reference") == project.contents(undisturbed / "data/reference")
    train.main()
    assert outputs(root) == outputs(undisturbed)
    assert len(outputs(root)) == 7
    assert list((root / "runs/train").iterdir()) == []


@pytest.mark.e2e
def test_a_second_training_beside_a_living_one_changes_nothing(tmp_path: Path):
    root = ready(tmp_path / "root")
    project.write_params(root, runtime={"checkpoint_every_s": 1e-9})
    with project.start(root, "train") as first:
        wait_for_checkpoint(root, first, beyond=1)
        first.send_signal(signal.SIGSTOP)  # alive, as one that a killed DVC left
        stood = project.contents(root / "runs/train")
        with project.start(root, "train") as second:
            said = second.communicate(timeout=60)[1]
        with pytest.raises(Busy, match=f"is in use already: by process {first.pid} on"):
            train.run(folders(root), config(), tiny.budget(65536))
        assert project.contents(root / "runs/train") == stood
        first.send_signal(signal.SIGCONT)
        assert "Traceback" not in first.communicate(timeout=60)[1]
    assert second.returncode == 75
    assert f"[train] error: stage `train` is running already: by process {first.pid} on" in said
    assert first.returncode == 0
    assert outputs(root)


@pytest.mark.e2e
def test_a_watched_training_is_json_alone_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    seen = {"on": [], "off": []}
    for name, runtime in {"on": {"metrics_address": f"127.0.0.1:{port}", "log_every_steps": 1}, "off": {}}.items():
        root = ready(tmp_path / name)
        project.write_params(root, runtime, epochs=8)
        with project.start(root, "train", DPO_LOG_FORMAT="json", DPO_RUN="0b1c") as process:
            while process.poll() is None:
                with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                    seen[name].append(page.read().decode())
                time.sleep(0.02)
            lines = [json.loads(line) for line in process.stderr or ()]
        assert process.returncode == 0
        assert {(line["stage"], line["run"]) for line in lines} == {("train", "0b1c")}
        assert any(line.get("progress", {}).get("what") == "train" for line in lines)
        assert json.loads((root / "runs/receipts/train.json").read_text())["run"] == "0b1c"
    assert 'dpo_train_pairs_per_second{run="0b1c",stage="train"}' in "".join(seen["on"])
    assert seen["off"] == []
    on, off = (project.contents(tmp_path / name / "models/adapter") for name in ("on", "off"))
    assert on == off
