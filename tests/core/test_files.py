"""Files and folders that appear whole or not at all, and manifests that vouch for them."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.core import files
from tasks.core.errors import ArtifactError, StorageError
from tests.conftest import ROOT
from tests.small_disk import fill, small_disk


def made(folder: Path, **texts: str) -> Path:
    with files.atomic_folder(folder, {"stage": "encode"}) as draft:
        for name, text in (texts or {"a": "one"}).items():
            (draft / name).write_text(text)
    return folder


def test_a_folder_appears_with_its_manifest(tmp_path: Path):
    folder = made(tmp_path / "out", a="one", b="three")
    manifest = json.loads((folder / "manifest.json").read_text())
    # sha256 of "one" as sha256sum(1) prints it
    digest = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert manifest["files"]["a"] == {"sha256": digest, "size": 3}
    assert manifest["stage"] == "encode"
    assert set(manifest["files"]) == {"a", "b"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_folder_is_not_there_while_it_is_written(tmp_path: Path):
    with files.atomic_folder(tmp_path / "out") as draft:
        (draft / "a").write_text("one")
        assert not (tmp_path / "out").exists()
        assert draft.name.startswith(".")


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path):
    made(tmp_path / "out", old="1")
    made(tmp_path / "out", new="2")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_folder_and_leaves_no_draft(tmp_path: Path, error: type[BaseException]):
    def interrupted() -> None:
        with files.atomic_folder(tmp_path / "out") as draft:
            (draft / "a").write_text("half")
            raise error

    made(tmp_path / "out", a="one")
    with pytest.raises(error):
        interrupted()
    assert (tmp_path / "out/a").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.core import files
target, moment = Path(sys.argv[1]), sys.argv[2]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "before the manifest":
    files.write_manifest = die
with files.atomic_folder(target) as draft:
    (draft / "a").write_text("new")
    if moment == "while writing":
        die()
    if moment == "between the two renames":
        rename = Path.rename
        Path.rename = lambda self, to: die() if self == draft else rename(self, to)
"""


@pytest.mark.parametrize("moment", ["while writing", "before the manifest", "between the two renames"])
def test_a_killed_writer_leaves_the_old_folder_or_none_and_its_drafts_are_swept(tmp_path: Path, moment: str):
    target = made(tmp_path / "out", a="old")
    command = [sys.executable, "-c", KILLED, str(target), moment]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    if moment == "between the two renames":
        with pytest.raises(ArtifactError, match="is missing — run `dvc repro encode`"):
            files.read_manifest(target, "encode")
    else:
        assert (target / "a").read_text() == "old"
        files.verify_manifest(target, "encode")
    assert len(list(tmp_path.glob(".out.*"))) >= 1
    made(target, a="newer")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / "a").read_text() == "newer"


def test_the_drafts_of_a_neighbour_with_a_longer_name_are_left_alone(tmp_path: Path):
    with files.atomic_folder(tmp_path / "out.v2") as draft:
        made(tmp_path / "out")
        assert draft.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.v2"]


def test_the_manifest_vouches_for_files_in_subfolders_too(tmp_path: Path):
    with files.atomic_folder(tmp_path / "out") as draft:
        (draft / "inner").mkdir()
        (draft / "inner/manifest.json").write_text("{}")
    (tmp_path / "out/inner/manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"inner/manifest.json is missing though .* lists it"):
        files.read_manifest(tmp_path / "out", "encode")


def test_a_missing_folder_names_the_stage_to_run(tmp_path: Path):
    with pytest.raises(ArtifactError, match="out is missing — run `dvc repro encode`"):
        files.read_manifest(tmp_path / "out", "encode")


def test_a_folder_without_a_manifest_was_never_finished(tmp_path: Path):
    (made(tmp_path / "out") / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="so it was never finished — delete it and run `dvc repro encode`"):
        files.read_manifest(tmp_path / "out", "encode")


def test_a_missing_file_and_a_wrong_size_are_named(tmp_path: Path):
    folder = made(tmp_path / "out", a="one", b="two")
    (folder / "a").write_text("longer")
    with pytest.raises(ArtifactError, match="out/a has 6 bytes, its manifest says 3 — the file is damaged"):
        files.read_manifest(folder, "encode")
    (folder / "a").unlink()
    with pytest.raises(ArtifactError, match="out/a is missing though"):
        files.read_manifest(folder, "encode")


def test_other_bytes_of_the_same_size_are_found_by_the_hash(tmp_path: Path):
    folder = made(tmp_path / "out", a="one")
    (folder / "a").write_text("two")
    assert files.read_manifest(folder, "encode")["stage"] == "encode"
    with pytest.raises(ArtifactError, match="out/a does not have the SHA-256 of its manifest"):
        files.verify_manifest(folder, "encode")


@pytest.mark.parametrize("text", ["null", "[]", "{}", '{"files": []}', '{"files": {"a": 3}}', '{"files": {"a": {}}}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str):
    (made(tmp_path / "out") / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest.json is not a manifest — delete the folder"):
        files.read_manifest(tmp_path / "out", "encode")


@pytest.mark.parametrize("data", [b'{"files": ', b"\xff", b""])
def test_a_manifest_that_is_no_json_is_refused(tmp_path: Path, data: bytes):
    (made(tmp_path / "out") / "manifest.json").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"manifest.json is not valid JSON"):
        files.read_manifest(tmp_path / "out", "encode")


def test_the_digest_of_a_folder_is_that_of_its_content(tmp_path: Path):
    one, same, other = made(tmp_path / "x"), made(tmp_path / "y"), made(tmp_path / "z", a="two")
    assert files.manifest_digest(one, "encode") == files.manifest_digest(same, "encode")
    assert files.manifest_digest(one, "encode") != files.manifest_digest(other, "encode")


def test_equal_values_have_one_digest_and_numbers_that_are_none_have_none():
    assert files.digest_of({"b": 1, "a": [1, 2]}) == files.digest_of({"a": [1, 2], "b": 1})
    for write in (files.canonical_json, files.pretty_json):
        with pytest.raises(ValueError, match="JSON"):
            write(float("nan"))


def test_a_file_is_replaced_whole_and_a_failure_keeps_the_old_one(tmp_path: Path):
    path = tmp_path / "deep/er/file"
    files.write_text(path, "one\n")
    files.write_text(path, "two\n")
    with pytest.raises(TypeError):
        files.write_bytes(path, "text")  # type: ignore[arg-type]
    assert path.read_text() == "two\n"
    assert [found.name for found in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_fault_of_the_disk_becomes_one_line_that_names_the_file(code: int):
    told = files.explain_os_error(OSError(code, os.strerror(code), "data/x"))
    assert isinstance(told, StorageError)
    assert "data/x" in str(told)
    assert "run again" in str(told)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "gone", "x"), OSError("odd"), ConnectionError()])
def test_other_faults_are_not_taken_for_the_disk_s(error: OSError):
    assert files.explain_os_error(error) is None


def test_a_full_disk_keeps_the_old_folder_and_is_told_with_its_place(tmp_path: Path):
    with small_disk(tmp_path / "disk", 64) as disk:
        made(disk / "out", a="one")
        for write in (
            lambda draft: files.write_bytes(draft / "b", bytes(10**5)),
            lambda draft: np.save(draft / "b.npy", np.zeros(10**5)),  # numpy gives its error no number
            lambda draft: (draft / "b").write_bytes(bytes(10**5)),
        ):
            with pytest.raises(OSError) as caught, files.atomic_folder(disk / "out") as draft:
                write(draft)
            told = str(files.explain_os_error(caught.value))
            assert f"{disk}/" in told
            assert "the disk is full" in told
            assert [path.name for path in disk.iterdir()] == ["out"]
            assert (disk / "out/a").read_text() == "one"


def test_a_full_disk_keeps_the_old_file(tmp_path: Path):
    with small_disk(tmp_path / "disk", 64) as disk:
        files.write_text(disk / "file", "old")
        fill(disk)
        with pytest.raises(OSError, match="No space left"):
            files.write_bytes(disk / "file", bytes(10**5))
        assert (disk / "file").read_text() == "old"
        assert sorted(path.name for path in disk.iterdir()) == ["file", "filler"]
