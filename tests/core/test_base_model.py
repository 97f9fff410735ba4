"""The pinned base model: what `data/base/` says, and that the weights are still those it pinned."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, NetworkError
from tasks.core.files import atomic_folder, sha256_file
from tasks.telemetry import provenance

DIGEST = "d" * 64
COMMIT = "a" * 40
FILES = ("config.json", "model.safetensors")


def pinned(folder: Path, kind: str, source: str, revision: str | None = None, **files: str) -> Path:
    where = Path(source) if kind == "local" else folder
    listed = {n: {"sha256": sha256_file(where / n), "size": (where / n).stat().st_size} for n in files} if files else {}
    about = {"stage": "base", "kind": kind, "source": source, "revision": revision, "digest": DIGEST}
    with atomic_folder(folder, {**about, "model_files": listed}) as draft:
        (draft / "metrics.json").write_text("{}")
        if kind == "demo":
            (draft / "config.json").write_text("{}")
    return folder


def test_the_demo_s_weights_lie_in_the_stage_s_own_folder(tmp_path: Path):
    base = BaseModel.open(pinned(tmp_path / "base", "demo", "demo"))
    assert base == BaseModel("demo", "demo", None, DIGEST, str(tmp_path / "base"))


def test_the_type_to_compute_in_is_read_where_the_base_stage_wrote_one(tmp_path: Path):
    about = {"stage": "base", "kind": "demo", "source": "demo", "revision": None, "digest": DIGEST}
    for name, more in (("auto", {}), ("bfloat16", {"compute_dtype": "bfloat16"})):
        with atomic_folder(tmp_path / name, {**about, **more}) as draft:
            (draft / "config.json").write_text("{}")
        assert BaseModel.open(tmp_path / name).compute_dtype == name


def test_a_hub_base_is_named_by_its_id_and_revision(tmp_path: Path):
    base = BaseModel.open(pinned(tmp_path / "base", "hub", "org/model", "a" * 40))
    assert (base.location, base.revision) == ("org/model", "a" * 40)


def hub_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A base of the hub whose files lie in the hub's cache as its client lays them out; the cache and `data/base`."""
    snapshot = tmp_path / "cache/models--org--model/snapshots" / COMMIT
    blobs = tmp_path / "cache/models--org--model/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in FILES:
        (blobs / f"etag-of-{name}").write_text(f"the bytes of {name}")
        (snapshot / name).symlink_to(blobs / f"etag-of-{name}")
    files = {n: {"sha256": sha256_file(snapshot / n), "size": (snapshot / n).stat().st_size} for n in FILES}
    about = {"stage": "base", "kind": "hub", "source": "org/model", "revision": COMMIT, "digest": DIGEST}
    with atomic_folder(tmp_path / "base", {**about, "model_files": files}) as draft:
        (draft / "metrics.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return snapshot, tmp_path / "base"


def test_a_hub_base_whose_cached_files_are_the_pinned_ones_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, folder = hub_base(tmp_path, monkeypatch)
    assert BaseModel.open(folder).location == "org/model"


def test_a_hub_base_that_changed_in_the_hubs_cache_is_refused_with_the_file_to_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    snapshot, folder = hub_base(tmp_path, monkeypatch)
    (snapshot / "model.safetensors").write_text("the bytes of model.safetensorZ")
    blob = (snapshot / "model.safetensors").resolve()
    with pytest.raises(ArtifactError, match=rf"changed since the base stage pinned it — delete {blob}"):
        BaseModel.open(folder)
    assert BaseModel.open(folder, check_files=False).digest == DIGEST


def test_an_adapter_beside_a_hub_base_in_the_hubs_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    snapshot, folder = hub_base(tmp_path, monkeypatch)
    (snapshot / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"adapter_config\.json beside its weights"):
        BaseModel.open(folder)


def test_a_hub_base_that_is_not_in_the_cache_and_cannot_be_downloaded_is_the_networks_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    snapshot, folder = hub_base(tmp_path, monkeypatch)
    (snapshot / "config.json").unlink()
    said = rf"config\.json is not in the hub's cache, .* — check that this machine may download org/model at {COMMIT}"
    with pytest.raises(NetworkError, match=said):
        BaseModel.open(folder)


def local(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "mine").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "mine" / name).write_text(f"the bytes of {name}")
    files = {"config.json": "", "model.safetensors": ""}
    return tmp_path / "mine", pinned(tmp_path / "base", "local", str(tmp_path / "mine"), **files)


def test_a_local_base_is_used_where_it_lies(tmp_path: Path):
    weights, folder = local(tmp_path)
    assert BaseModel.open(folder).location == str(weights)


def test_a_local_base_that_changed_is_refused(tmp_path: Path):
    weights, folder = local(tmp_path)
    (weights / "model.safetensors").write_text("the bytes of model.safetensorZ")  # as many, but others
    with pytest.raises(ArtifactError, match=r"model.safetensors changed since the base stage pinned it"):
        BaseModel.open(folder)
    assert BaseModel.open(folder, check_files=False).digest == DIGEST


def test_a_local_base_that_is_gone_is_refused(tmp_path: Path):
    weights, folder = local(tmp_path)
    (weights / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"the base model's file .*config.json is missing — restore it"):
        BaseModel.open(folder)


def test_a_demo_base_that_changed_is_refused(tmp_path: Path):
    folder = pinned(tmp_path / "base", "demo", "demo")
    (folder / "config.json").write_text("[]")
    with pytest.raises(ArtifactError, match=r"config.json does not have the SHA-256 of its manifest"):
        BaseModel.open(folder)


@pytest.mark.parametrize("change", [{"kind": "other"}, {"kind": None}])
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, change: dict[str, object]):
    folder = pinned(tmp_path / "base", "demo", "demo")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ArtifactError, match="is not a base manifest — run `dvc repro base`"):
        BaseModel.open(folder)


def test_a_missing_base_names_its_stage(tmp_path: Path):
    with pytest.raises(ArtifactError, match="base is missing — run `dvc repro base`"):
        BaseModel.open(tmp_path / "base")


def test_the_git_revision_says_whether_tracked_files_changed(tmp_path: Path):
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert provenance.git_revision(tmp_path) == {"commit": None, "dirty": None}
    git("init", "-q")
    (tmp_path / "a").write_text("one")
    git("add", "a")
    git("commit", "-qm", "one")
    assert provenance.git_revision(tmp_path) == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "a").write_text("two")
    assert provenance.git_revision(tmp_path)["dirty"] is True
