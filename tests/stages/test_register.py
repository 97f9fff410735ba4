"""The register stage: what it records, what it refuses, and that its output is a function of its inputs."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core import paths
from tasks.core.errors import ArtifactError, ConfigError, GateRefused, PipelineError
from tasks.core.files import write_manifest, write_text
from tasks.core.params import build, load_section
from tasks.register import RegisterConfig, run
from tasks.registry.release import lineage
from tasks.registry.release.candidate import Sources
from tasks.registry.stores.folder import FolderStore
from tasks.registry.versions.registry import Registry
from tests.registry.samples import evidence_files, scores_of
from tests.stages.laid_out import folder, lay

ROOT = Path(__file__).resolve().parent.parent.parent
CONFIG = RegisterConfig(name="demo")
LOCK = """\
schema: '2.0'
stages:
  train:
    cmd: python -m tasks.train
    deps:
    - path: data/tokens
      hash: md5
      md5: 0123456789abcdef0123456789abcdef.dir
    outs:
    - path: models/adapter
      md5: fedcba9876543210fedcba9876543210.dir
  register:
    cmd: python -m tasks.register
    outs:
    - path: results/register
      md5: 11111111111111111111111111111111.dir
"""


def run_at(root: Path, sources: Sources, config: RegisterConfig = CONFIG, registry: str = "registry"):
    (root / "dvc.lock").write_text(LOCK)
    sources = dataclasses.replace(sources, lock=root / "dvc.lock", receipts=root / "receipts", checkout=root)
    config = dataclasses.replace(config, root=str(root / registry))
    return run(sources, root / "out", config, "train: {seed: 7}\n")


def content(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_good_adapter_is_recorded_with_all_its_papers_and_becomes_champion(tmp_path: Path):
    done = run_at(tmp_path, lay(tmp_path))
    registry = Registry(FolderStore(tmp_path / "registry"), "demo")
    version = registry.check(registry.find("champion"))
    assert set(version.files) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "report.html",
        "evidence/metrics.json",
        "evidence/scores.jsonl",
        "train/metrics.json",
        "decision.json",
        "params.yaml",
        "lineage.json",
    }
    assert registry.read_file(done.digest, "README.md") == b"# Card\n"
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_bytes())
    assert (metrics["promoted"], metrics["win_rate"], metrics["serial"], metrics["attempt"]) == (1, 0.8, 1, 1)
    registration = json.loads((tmp_path / "out" / "registration.json").read_bytes())
    assert (registration["version"], registration["outcome"]) == (done.digest, "promote")
    assert registration["promoted"] is True
    assert json.loads((tmp_path / "out" / "decision.json").read_bytes())["outcome"] == "promote"


def test_lineage_names_code_data_base_and_every_stages_hashes(tmp_path: Path):
    done = run_at(tmp_path, lay(tmp_path))
    registry = Registry(FolderStore(tmp_path / "registry"), "demo")
    lineage = json.loads(registry.read_file(done.digest, "lineage.json"))
    assert lineage["stages"] == {
        "train": {
            "deps": {"data/tokens": "0123456789abcdef0123456789abcdef.dir"},
            "outs": {"models/adapter": "fedcba9876543210fedcba9876543210.dir"},
        }
    }
    assert lineage["base"] == {"kind": "demo", "source": "demo", "revision": None, "digest": "b" * 64}
    assert lineage["data"]["pairs_used"] == {"train": 90, "test": 10}
    assert set(lineage["git"]) == {"commit", "dirty"}
    assert {"python", "torch", "peft"} <= set(lineage["packages"])
    assert lineage["parent"] is None
    assert lineage["hardware"] is None, "no receipt, as in a run by hand"


def test_lineage_names_the_parent_the_seeds_and_the_hardware_without_the_hosts_name(tmp_path: Path):
    sources = lay(tmp_path)
    write_manifest(tmp_path / paths.INIT_ADAPTER, {"stage": "adapters", "source": f"registry:demo@{'a' * 64}"})
    (tmp_path / "receipts").mkdir()
    machine = {"host": "secret-host", "cpus": 16, "gpus": ["NVIDIA H100"]}
    (tmp_path / "receipts/train.json").write_text(json.dumps({"machine": machine, "ranks": 8}))
    done = run_at(tmp_path, sources)
    registry = Registry(FolderStore(tmp_path / "registry"), "demo")
    lineage = json.loads(registry.read_file(done.digest, "lineage.json"))
    assert lineage["parent"] == {"name": "demo", "digest": "a" * 64}
    assert lineage["hardware"] == {"cpus": 16, "gpus": ["NVIDIA H100"], "ranks": 8}
    assert lineage["seeds"] == {"train": 7}


def test_the_output_is_the_same_bytes_for_every_empty_registry_and_for_a_second_run(tmp_path: Path):
    sources = lay(tmp_path)
    run_at(tmp_path, sources)
    first = content(tmp_path / "out")
    again = run_at(tmp_path, sources)
    assert content(tmp_path / "out") == first
    assert not again.is_new
    run_at(tmp_path, sources, registry="another")
    assert content(tmp_path / "out") == first


def test_a_run_with_chosen_and_rejected_swapped_is_recorded_and_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level("INFO"):
        done = run_at(tmp_path, lay(tmp_path, wins=10))
    assert (done.is_promoted, done.decision.outcome) == (False, "keep")
    registry = Registry(FolderStore(tmp_path / "registry"), "demo")
    assert registry.digests() == [done.digest]
    assert registry.history().aliases() == {}
    assert len(caplog.messages) == 1
    assert "not promoted (keep): win rate against the reference 0.1000 on 100 prompts" in caplog.messages[0]


def test_required_promotion_that_is_refused_ends_with_3_after_recording(tmp_path: Path):
    sources = lay(tmp_path, wins=10)
    with pytest.raises(GateRefused, match="is recorded, not promoted") as caught:
        run_at(tmp_path, sources, dataclasses.replace(CONFIG, require_promotion=True))
    assert caught.value.exit_code == 3
    assert json.loads((tmp_path / "out" / "registration.json").read_bytes())["promoted"] is False
    assert len(Registry(FolderStore(tmp_path / "registry"), "demo").digests()) == 1


def test_an_experiment_is_judged_without_a_look_and_cannot_fail_for_a_promotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    sources = lay(tmp_path, wins=10)
    monkeypatch.setenv("DVC_EXP_NAME", "trial")
    with caplog.at_level("INFO"):
        done = run_at(tmp_path, sources, dataclasses.replace(CONFIG, require_promotion=True))
    assert (done.is_registered, done.serial, done.decision.outcome) == (False, None, "keep")
    assert not (tmp_path / "registry").exists()
    registration = json.loads((tmp_path / "out" / "registration.json").read_bytes())
    assert (registration["registered"], registration["promoted"]) == (False, False)
    assert "not registered by an experiment (the gate says keep: win rate" in caplog.messages[0]

    told = run_at(tmp_path, sources, dataclasses.replace(CONFIG, in_experiments=True))
    assert (told.serial, told.is_new) == (1, True)
    registered = content(tmp_path / "out")
    again = run_at(tmp_path, sources)
    assert (again.serial, again.is_new) == (1, False)
    assert content(tmp_path / "out") == registered, "an experiment says of a registered version what the registry says"


def test_a_version_that_is_held_is_not_read_again_and_one_that_lost_a_file_is_mended(tmp_path: Path):
    sources = lay(tmp_path)
    first = run_at(tmp_path, sources)
    weights = tmp_path / "registry/demo/versions" / first.digest / "adapter_model.safetensors"
    weights.chmod(0o644)
    flip(weights)  # who would read it would refuse it
    assert not run_at(tmp_path, sources).is_new
    weights.unlink()
    assert not run_at(tmp_path, sources).is_new
    Registry(FolderStore(tmp_path / "registry"), "demo").check(first.digest)


def test_a_promotion_that_a_killed_run_left_undone_is_made_by_the_next(tmp_path: Path):
    sources = lay(tmp_path)
    done = run_at(tmp_path, sources)
    (tmp_path / "registry/demo/log/00000002.json").unlink()
    again = run_at(tmp_path, sources)
    assert (again.is_promoted, again.serial) == (True, 1)
    assert Registry(FolderStore(tmp_path / "registry"), "demo").find("champion") == done.digest


def flip(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


INPUTS = {
    "no evidence": (lambda s: (s.winrate / "manifest.json").unlink(), "winrate has no manifest.json"),
    "altered weights": (lambda s: flip(s.adapter / "adapter_model.safetensors"), "adapter_model.safetensors does not"),
    "evidence of another run": (lambda s: folder(s.winrate, mixed()), "the two are not of one run"),
    "no scores": (lambda s: lose(s.winrate, "scores.jsonl"), "scores.jsonl is missing"),
    "no model card": (lambda s: lose(s.report, "README.md"), "README.md is missing"),
    "a base without digest": (lambda s: folder(s.base, {}), "is not a base manifest"),
    "a pickled adapter": (lambda s: folder(s.adapter, {"adapter_model.bin": b"x"}), "can hold a pickle"),
}


def mixed() -> dict[str, bytes]:
    return {"metrics.json": evidence_files(scores_of(99, losses=1))["metrics.json"]}


def lose(path: Path, name: str) -> None:
    (path / name).unlink()
    write_manifest(path, {})


@pytest.mark.parametrize("case", INPUTS)
def test_an_unfit_input_is_refused_by_name_and_nothing_is_recorded(tmp_path: Path, case: str):
    spoil, said = INPUTS[case]
    sources = lay(tmp_path)
    spoil(sources)
    with pytest.raises(PipelineError) as caught:
        run_at(tmp_path, sources)
    assert said in str(caught.value)
    assert not (tmp_path / "registry").exists()
    assert not (tmp_path / "out").exists()


def test_a_lock_that_dvc_did_not_write_is_refused():
    with pytest.raises(ArtifactError, match=r"dvc\.lock is not a lock file of DVC"):
        lineage.stage_hashes("stages: [1, 2]\n")


def test_without_a_lock_no_hashes_of_stages_are_recorded(tmp_path: Path):
    sources = lay(tmp_path)
    assert lineage.trace(dataclasses.replace(sources, lock=tmp_path / "absent"), "")["stages"] == {}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "Demo"}, r"`register\.name` is 'Demo'"),
        ({"name": "demo", "alias": "v1"}, r"`register\.alias` is 'v1'"),
        ({"name": "demo", "root": "gs://bucket"}, r"`register\.root`.*or s3://bucket/prefix"),
        ({"name": "demo", "kms_key": "k"}, r"`register\.kms_key` is 'k'.*set `register\.encryption: aws:kms`"),
        ({"name": "demo", "gate": {"alfa": 0.1}}, r"unknown key `register\.gate\.alfa`.*did you mean `alpha`"),
        ({}, r"`register\.name` is missing"),
    ],
)
def test_a_wrong_param_is_refused_by_name(values: dict[str, object], said: str):
    with pytest.raises(ConfigError, match=said):
        build(RegisterConfig, values, "register")


def write_params(root: Path, **changes: object) -> None:
    write_text(root / paths.PARAMS, json.dumps({"register": {"name": "demo"} | changes}))


def module(root: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", name, *words]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=60)


def test_the_stage_runs_from_its_standard_paths_and_leaves_a_receipt(tmp_path: Path):
    lay(tmp_path)
    write_params(tmp_path)
    done = module(tmp_path, "tasks.register")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("[register] demo v1 (")
    assert done.stderr.count("\n") == 1
    receipt = json.loads((tmp_path / "runs/receipts/register.json").read_bytes())
    assert (receipt["status"], receipt["notes"]["outcome"]) == ("ok", "promote")
    assert (tmp_path / "models/registry/demo/log/00000002.json").is_file()


def test_the_stages_refusal_is_exit_status_3_where_promotion_is_required(tmp_path: Path):
    lay(tmp_path, wins=10)
    write_params(tmp_path, require_promotion=True)
    done = module(tmp_path, "tasks.register")
    assert done.returncode == 3
    assert "error: version" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "results/register/decision.json").is_file()


@pytest.mark.parametrize(("wins", "outcome", "status"), [(80, "promote", 0), (10, "keep", 3), (55, "inconclusive", 4)])
def test_decide_says_what_register_would_and_records_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wins: int,
    outcome: str,
    status: int,
):
    from tasks.registry.__main__ import main

    lay(tmp_path, wins=wins)
    write_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["decide", "--json"]) == status
    shown = json.loads(capsys.readouterr().out)
    assert shown["outcome"] == outcome
    assert not (tmp_path / "models/registry").exists()
    done = run_at(tmp_path, Sources(), registry="models/registry")
    assert shown == {"digest": done.digest, **done.decision.as_json(), "looks_spent": 0}
    assert main(["decide"]) == status  # registered or not, it says the same
    said = capsys.readouterr().out
    assert said.startswith(f"{outcome}: demo {done.digest[:12]} for `champion`")
    assert "look 1 at these prompts, none spent before, at alpha 0.03040 of 0.05; asking spends none" in said


def test_the_params_that_are_delivered_are_understood():
    path = ROOT / "params.yaml"
    config = load_section(path if path.is_file() else ROOT / "params.d/register.yaml", "register", RegisterConfig)
    assert (config.root, config.alias) == ("models/registry", "champion")
