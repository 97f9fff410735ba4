"""Versions in the folder store: whole, immutable, verified, and nothing that runs code."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest

from tasks.core.errors import RegistryError
from tasks.core.files import MANIFEST, sha256_bytes
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import Release, register
from tasks.registry.stores.folder import FolderStore
from tasks.registry.versions.manifest import WEIGHTS, Candidate
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample, scores_of

GATE = GateConfig()


def release(registry: Registry, seed: int = 0, **changes) -> Release:
    return register(registry, *sample(seed, **changes), "champion", GATE)


def folder_of(registry: Registry, digest: str) -> Path:
    return Path(registry.store.label) / "demo" / "versions" / digest


def snapshot(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_version_lies_as_the_design_says_and_its_manifest_vouches_for_every_file(registry: Registry):
    done = release(registry)
    root = Path(registry.store.label)
    files = {name for name in snapshot(root) if not name.startswith(".")}
    version = f"demo/versions/{done.digest}"
    assert {f"{version}/{MANIFEST}", f"{version}/{WEIGHTS}", f"{version}/decision.json"} <= files
    assert {"demo/log/00000001.json", "demo/log/00000002.json"} <= files
    manifest = json.loads((root / version / MANIFEST).read_bytes())
    told = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    stored = snapshot(root / version)
    assert told == {name: sha256_bytes(data) for name, data in stored.items() if name != MANIFEST}
    assert not list((root / ".drafts").iterdir())


def test_the_digest_covers_what_a_version_is_and_nothing_else(registry: Registry):
    base = sample()[0]
    assert sample(note="another commit")[0].digest == base.digest
    assert sample(seed=1)[0].digest != base.digest
    assert sample(scores=scores_of(79, losses=21))[0].digest != base.digest
    for part in ("weights", "adapter_config", "base", "reference", "data", "evidence"):
        assert dataclasses.replace(base.identity, **{part: "9" * 64}).digest != base.digest


def test_the_same_bytes_again_change_nothing(registry: Registry):
    first = release(registry, note="one commit")
    before = snapshot(Path(registry.store.label))
    again = release(Registry(registry.store, "demo"), note="another commit")
    assert snapshot(Path(registry.store.label)) == before
    assert (again.digest, again.serial, again.decision) == (first.digest, first.serial, first.decision)
    assert (first.is_new, again.is_new, again.is_promoted) == (True, False, True)


def test_stored_files_are_read_only_and_a_key_is_never_written_twice(tmp_path: Path):
    store = FolderStore(tmp_path)
    assert store.put("a/b.json", b"first") is True
    assert store.put("a/b.json", b"second") is False
    assert store.get("a/b.json") == b"first"
    assert (tmp_path / "a/b.json").stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/.hidden", "a\\b", "a/\n"])
def test_a_key_that_leads_elsewhere_is_refused(tmp_path: Path, key: str):
    store = FolderStore(tmp_path / "registry")
    for reach in (store.get, store.exists, lambda name: store.put(name, b"")):
        with pytest.raises(RegistryError, match="is not a valid key of a registry"):
            reach(key)
    assert not list(tmp_path.rglob("x"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    overwrite(path, bytes(data))


def grow(path: Path) -> None:
    overwrite(path, path.read_bytes() + b"\n")


def link(path: Path) -> None:
    aside = path.parent.parent.parent.parent.parent / "aside"
    shutil.move(path, aside)
    path.symlink_to(aside)


def swap(path: Path) -> None:
    other = path.parent / "adapter_config.json"
    mine, theirs = path.read_bytes(), other.read_bytes()
    overwrite(path, theirs)
    overwrite(other, mine)


DAMAGE = {
    "a flipped bit": (flip, "does not have the SHA-256 of its manifest"),
    "another size": (grow, "bytes, its manifest says"),
    "a swapped file": (swap, "bytes, its manifest says"),
    "a symbolic link": (link, "is a symbolic link"),
    "a missing file": (Path.unlink, "is missing"),
    "a planted pickle": (lambda path: (path.parent / "evil.pkl").write_bytes(b"\x80\x04"), "evil.pkl, which is not"),
    "a planted hidden file": (lambda path: (path.parent / ".x").write_bytes(b""), "does not belong in a registry"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_with_the_reason_wherever_the_version_is_read(registry: Registry, tmp_path: Path, case: str):
    damage, said = DAMAGE[case]
    done = release(registry)
    damage(folder_of(registry, done.digest) / WEIGHTS)
    with pytest.raises(RegistryError, match=said):
        registry.check(done.digest)
    if case != "a missing file":  # that alone is mended by the same bytes
        with pytest.raises(RegistryError, match=said):
            release(registry)  # the same bytes again are no way around it
    if "planted" not in case:  # what the manifest does not list is never pulled
        with pytest.raises(RegistryError, match=said):
            registry.pull(done.digest, tmp_path / "pulled")
        assert not (tmp_path / "pulled").exists()
        assert not list(tmp_path.glob(".*.draft"))


def test_a_file_altered_together_with_its_manifest_is_still_found_out(registry: Registry):
    done = release(registry)
    folder = folder_of(registry, done.digest)
    for name in (WEIGHTS, "README.md"):
        manifest = json.loads((folder / MANIFEST).read_bytes())
        flip(folder / name)
        manifest["files"][name]["sha256"] = sha256_bytes((folder / name).read_bytes())
        overwrite(folder / MANIFEST, json.dumps(manifest).encode())
        with pytest.raises(RegistryError, match="is not the one that was registered"):
            registry.check(done.digest)


@pytest.mark.parametrize("name", ["../../log/00000009.json", "/etc/x.json", "a/../b.json", ".x.json", "x\\y.json"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(registry: Registry, tmp_path: Path, name: str):
    candidate, _ = sample()
    registry.put(candidate)  # not in the log yet, so that only the names can give it away
    folder = folder_of(registry, candidate.digest)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = {"sha256": sha256_bytes(b""), "size": 0}
    overwrite(folder / MANIFEST, json.dumps(manifest).encode())
    with pytest.raises(RegistryError, match="cannot hold a file named"):
        registry.pull(candidate.digest, tmp_path / "pulled")


def zipped_pickle() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weights": 1}))
    return buffer.getvalue()


REFUSED = {
    "a pickle by name": ("adapter_model.bin", b"weights", "can hold a pickle"),
    "a torch file": ("optimizer.pt", b"weights", "can hold a pickle"),
    "a pickle under another name": (
        "notes.txt",
        pickle.dumps({"a": 1}),
        "has the content of a pickle or a ZIP",
    ),
    "a zip of a pickle as weights": (WEIGHTS, zipped_pickle(), "has the content of a pickle or a ZIP"),
    "weights of no format": (WEIGHTS, b"x" * 200, "is not a safetensors file"),
    "a program": ("run.py", b"print()", "cannot hold the file type of run.py"),
    "a file elsewhere": ("../escape.json", b"{}", "cannot hold a file named"),
    "a manifest of its own": (MANIFEST, b"{}", "cannot hold a file named"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_version_may_not_hold_is_refused_before_anything_is_written(registry: Registry, case: str):
    name, content, said = REFUSED[case]
    candidate, evidence = sample()
    bad = Candidate(candidate.identity, {**candidate.files, name: content})
    with pytest.raises(RegistryError, match=said):
        register(registry, bad, evidence, "champion", GATE)
    assert not Path(registry.store.label).exists()


def test_a_source_that_is_a_symbolic_link_is_refused(registry: Registry, tmp_path: Path):
    (tmp_path / "card").write_text("# elsewhere")
    (tmp_path / "README.md").symlink_to(tmp_path / "card")
    candidate, evidence = sample()
    bad = Candidate(candidate.identity, {**candidate.files, "README.md": tmp_path / "README.md"})
    with pytest.raises(RegistryError, match="is not a regular file"):
        register(registry, bad, evidence, "champion", GATE)


def test_weights_that_are_not_those_of_the_identity_are_refused(registry: Registry):
    candidate, evidence = sample(0)
    other, _ = sample(1)
    mixed = Candidate(candidate.identity, {**candidate.files, WEIGHTS: other.files[WEIGHTS]})
    with pytest.raises(RegistryError, match="the weights stored are not those"):
        register(registry, mixed, evidence, "champion", GATE)
    assert registry.digests() == []


def test_what_a_killed_attempt_left_altered_is_not_made_a_version(registry: Registry):
    candidate, evidence = sample()
    registry.store.put(f"demo/versions/{candidate.digest}/{WEIGHTS}", sample(7)[0].files[WEIGHTS])
    with pytest.raises(RegistryError, match="remove that version's folder"):
        register(registry, candidate, evidence, "champion", GATE)
    assert registry.digests() == []


def test_a_large_file_is_copied_from_its_path(registry: Registry, tmp_path: Path):
    candidate, evidence = sample()
    weights = tmp_path / WEIGHTS
    weights.write_bytes(candidate.files[WEIGHTS])
    done = register(registry, Candidate(candidate.identity, {**candidate.files, WEIGHTS: weights}), evidence, "c", GATE)
    flip(weights)  # the registry holds a copy of its own, not a link to the source
    registry.check(done.digest)


def test_a_pulled_version_is_a_whole_copy_and_goes_only_into_an_empty_folder(registry: Registry, tmp_path: Path):
    done = release(registry)
    target = tmp_path / "out" / "pulled"
    target.mkdir(parents=True)
    registry.pull(done.digest, target)
    assert snapshot(target) == snapshot(folder_of(registry, done.digest))
    with pytest.raises(RegistryError, match="is not an empty folder"):
        registry.pull(done.digest, target)
    (tmp_path / "away").symlink_to(target)
    with pytest.raises(RegistryError, match="is not an empty folder"):
        registry.pull(done.digest, tmp_path / "away")


def test_a_file_system_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import errno
    import os

    from tasks.core.errors import StorageError

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match="cannot make hard links"):
        FolderStore(tmp_path).put("a/b.json", b"")
    assert not list(tmp_path.rglob("*.json"))


def test_drafts_that_nobody_finishes_are_swept_a_day_later(tmp_path: Path):
    import os

    store = FolderStore(tmp_path)
    drafts = tmp_path / ".drafts"
    drafts.mkdir()
    for name, age in (("old", 90_000), ("new", 10)):
        (drafts / name).write_bytes(b"")
        then = (drafts / name).stat().st_mtime - age
        os.utime(drafts / name, (then, then))
    store.put("a.json", b"")
    assert [path.name for path in drafts.iterdir()] == ["new"]
