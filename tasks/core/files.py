"""Files that appear whole or not at all, their hashes, and the manifest that lists a folder.

A folder is written under a hidden name beside its destination and renamed into place; its
``manifest.json`` (SHA-256 and size of every file) is written last, so a folder without a manifest
was never finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError, DataError, StorageError
from tasks.core.locks import hold_lock

MANIFEST = "manifest.json"
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy on a full disk, without an errno
_DISK_FAULTS = {
    errno.ENOSPC: ("the disk is full", "free some space there and run again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space there and run again"),
    errno.EROFS: ("the file system is read-only", "make it writable and run again"),
    errno.EACCES: ("permission denied", "make it readable and writable for this user and run again"),
    errno.EPERM: ("permission denied", "make it readable and writable for this user and run again"),
    errno.ESTALE: ("another machine removed the file meanwhile", "run again"),
    errno.ENOTDIR: ("a file stands where a folder belongs", "name another folder in params.yaml, or move the file"),
    errno.EIO: ("the disk reports an input/output fault", "check the disk and run again"),
}


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex, reading it in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def table_files(path: Path) -> list[Path]:
    """Return the Parquet files of a table: the file ``path`` itself, or those of a folder, in their order."""
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def code_digest(*rooms: Path) -> str:
    """Return one digest over the names and bytes of all Python files in folders of code: it changes with any edit."""
    files = {f"{room.name}/{path.relative_to(room).as_posix()}": path for room in rooms for path in room.rglob("*.py")}
    return digest_of({name: sha256_file(path) for name, path in files.items()})


def canonical_json(value: Any) -> str:
    """Return ``value`` as JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of(value: Any) -> str:
    """Return the SHA-256 of ``value``'s canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())


def pretty_json(value: Any) -> str:
    """Return ``value`` as indented JSON with sorted keys and a final newline."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing", "run the stage that writes it: `dvc repro`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not valid JSON ({error})", "delete it and run `dvc repro`") from None


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically: a reader sees the old file or the new one."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_file(path):
            with draft.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(
    target: Path, about: Mapping[str, Any] | None = None, manifest: bytes | None = None
) -> Iterator[Path]:
    """Give a draft folder to fill; on a clean exit it becomes ``target``, with its manifest.

    An exception leaves an earlier ``target`` as it was and removes the draft. A lock of the kernel stands for a living
    writer of ``target``: who holds it removes the drafts of killed ones first.

    Args:
        target: The folder to create or replace.
        about: Facts recorded in the manifest beside the files (the stage, its inputs' digests).
        manifest: The bytes of a manifest that exists already, instead.

    Raises:
        Busy: Another process is writing ``target``.
        StorageError: The draft was removed before it was finished.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".{target.name}.{os.getpid()}.draft"
    with (
        hold_lock(target.parent / f".{target.name}.lock", f"{target} is being written") as is_locked,
        naming_file(target),
    ):
        if is_locked:
            is_draft = re.compile(rf"\.{re.escape(target.name)}\.\d+(\.old)?\.draft")
            for stale in [path for path in target.parent.iterdir() if is_draft.fullmatch(path.name)]:
                shutil.rmtree(stale, ignore_errors=True)
        draft.mkdir()
        opened = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # nobody gets its inode while it is open

        try:
            yield draft
            _refuse_lost(draft, opened)
            if manifest is None:
                write_manifest(draft, about or {})
            else:
                write_bytes(draft / MANIFEST, manifest)
            _swap(draft, target)
        except Exception:
            _refuse_lost(draft, opened)  # then any other error only follows from that
            raise
        finally:
            os.close(opened)
            shutil.rmtree(draft, ignore_errors=True)


def _refuse_lost(draft: Path, opened: int) -> None:
    """Refuse to go on with a draft folder that is not the one that was ``opened``: files of it are gone."""
    if not (draft.is_dir() and os.path.samestat(draft.stat(), os.fstat(opened))):
        what = f"{draft} was removed while it was written"
        raise StorageError(what, "let nothing remove drafts of running stages, and run again") from None


@contextlib.contextmanager
def kept_on_error(path: Path, folder: Path | None) -> Iterator[None]:
    """Copy the file ``path`` of a draft into ``folder`` if an expected error ends the block, and say so in its advice.

    None for ``folder`` keeps nothing. A copy that an earlier run left there is removed.
    """
    if folder is None:
        yield
        return
    copy = folder / path.name
    copy.unlink(missing_ok=True)
    try:
        yield
    except DataError as error:
        if path.is_file() and path.stat().st_size:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            raise type(error)(error.what, f"{error.todo} ({copy} lists the rows)") from None
        raise


def _swap(draft: Path, target: Path) -> None:
    """Rename ``draft`` to ``target``, taking an older ``target`` out of the way."""
    old = target.parent / f".{target.name}.{os.getpid()}.old.draft"
    with contextlib.suppress(FileNotFoundError):  # DVC, too, may remove it at any moment
        target.rename(old)
    draft.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``manifest.json`` over every file of ``folder`` and return it."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "size": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }
    manifest = {**about, "files": files}
    write_text(folder / MANIFEST, pretty_json(manifest))
    return manifest


def read_manifest(folder: Path, stage: str) -> dict[str, Any]:
    """Read the manifest of ``folder``, which ``stage`` wrote, and check names and sizes against it.

    Raises:
        ArtifactError: The folder is missing or unfinished, or a file is missing or has another size.
    """
    again = f"run `dvc repro {stage}`"
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is missing", again)
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}, so it was never finished", f"delete it and {again}")
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    if not _is_manifest(manifest):
        raise ArtifactError(f"{folder / MANIFEST} is not a manifest", f"delete the folder and {again}")
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(
                f"{path} is missing though {folder / MANIFEST} lists it", f"delete the folder and {again}"
            )
        if path.stat().st_size != entry["size"]:
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes, its manifest says {entry['size']}",
                f"the file is damaged: delete the folder and {again}",
            )
    return manifest


def _is_manifest(value: Any) -> bool:
    files = value.get("files") if isinstance(value, dict) else None
    return isinstance(files, dict) and all(
        isinstance(entry, dict) and {"sha256", "size"} <= entry.keys() for entry in files.values()
    )


def verify_manifest(folder: Path, stage: str) -> dict[str, Any]:
    """Like :func:`read_manifest`, and check every file's SHA-256 as well.

    Raises:
        ArtifactError: As :func:`read_manifest`, or a file's bytes are not those of the manifest.
    """
    manifest = read_manifest(folder, stage)
    for name, entry in manifest["files"].items():
        if sha256_file(folder / name) != entry["sha256"]:
            raise ArtifactError(
                f"{folder / name} does not have the SHA-256 of its manifest",
                f"the file is damaged: delete the folder and run `dvc repro {stage}`",
            )
    return manifest


def manifest_digest(folder: Path, stage: str) -> str:
    """Return one digest for the content of a folder: the hash of its files' names and hashes."""
    return digest_of(read_manifest(folder, stage)["files"])


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Note in a fault of the disk where it happened: a failed write by itself does not say."""
    try:
        yield
    except OSError as error:
        if error.filename is None and explain_os_error(error):
            error.filename = str(path)
        raise


def explain_os_error(error: OSError) -> StorageError | None:
    """Turn a fault of the disk into a :class:`StorageError`; None for any other ``OSError``."""
    code = error.errno or 0
    if not code and error.args and _SHORT_WRITE.fullmatch(str(error.args[0])):
        code = errno.ENOSPC
    fault = _DISK_FAULTS.get(code)
    if fault is None:
        return None
    where = f"writing or reading {error.filename}" if error.filename else "writing or reading"
    return StorageError(f"{where}: {fault[0]}", fault[1])
