"""What a version is: its identity, the files it may hold, and the manifest with their hashes.

The digest that names a version covers what it *is* (weights, adapter config, base, reference, data, evidence), never
when, where or by whom it was made. Reports and lineage are no part of the digest; the manifest alone has their hashes.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.core.errors import RegistryError
from tasks.core.files import MANIFEST, digest_of, pretty_json
from tasks.registry.log.names import is_digest, short

WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
EVIDENCE = "evidence/"  # the folder of what the version was judged on
DECISION, LINEAGE, PARAMS = "decision.json", "lineage.json", "params.yaml"
_SCHEMA = 1

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_ALLOWED = {".json", ".jsonl", ".safetensors", ".md", ".html", ".csv", ".yaml", ".txt", ".jinja", ".model"}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_HEAD_LIMIT = 100_000_000  # bytes; the limit that the safetensors format sets for its header


@dataclasses.dataclass(frozen=True)
class Identity:
    """The parts of a version's identity, each a SHA-256 in hex.

    Attributes:
        weights: Of adapter_model.safetensors.
        adapter_config: Of adapter_config.json.
        base: Digest of the base model.
        reference: Digest of the reference log-probs.
        data: Digest of the preference pairs.
        evidence: Digest over the names and hashes of the evidence files.
    """

    weights: str
    adapter_config: str
    base: str
    reference: str
    data: str
    evidence: str

    @property
    def digest(self) -> str:
        """The hash over the canonical JSON of the parts, which names the version."""
        return digest_of(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """A file's SHA-256 in hex, and its size in bytes."""

    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A version before it is registered.

    Attributes:
        identity: The parts that its digest covers.
        files: Its files by name: text as bytes, large files as paths.
    """

    identity: Identity
    files: Mapping[str, bytes | Path]

    @property
    def digest(self) -> str:
        """The digest that will name it."""
        return self.identity.digest


@dataclasses.dataclass(frozen=True)
class Version:
    """A version as its manifest describes it."""

    identity: Identity
    files: Mapping[str, StoredFile]

    @property
    def digest(self) -> str:
        """The digest that names it."""
        return self.identity.digest

    def as_json(self) -> dict[str, Any]:
        """Return the version as plain JSON values."""
        return {"digest": self.digest, **dataclasses.asdict(self)}

    def manifest(self) -> bytes:
        """Return the bytes of manifest.json, which is written last."""
        return pretty_json({"schema": _SCHEMA, **self.as_json()}).encode()


def parse_manifest(data: bytes, digest: str) -> Version:
    """Read a manifest and check it against the digest that names its version.

    Raises:
        RegistryError: It is malformed, lists a file that no version may hold, or is another version's.
    """
    where = f"{MANIFEST} of version {short(digest)}"
    try:
        record = json.loads(data)
        identity = Identity(**record["identity"])
        files = {str(name): StoredFile(**entry) for name, entry in record["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RegistryError(f"{where} is not a manifest", "restore the version from a copy") from None
    for name in files:
        check_file_name(name)
    version = Version(identity, files)
    if version.digest != digest:
        raise RegistryError(f"{where} is that of {short(version.digest)}", "restore the version from a copy")
    check_identity(version, where)
    return version


def check_identity(version: Version, where: str) -> None:
    """Check the identity against the hashes of its files.

    Raises:
        RegistryError: A part of the identity is not a digest, or not that of its file.
    """
    for part, value in dataclasses.asdict(version.identity).items():
        if not is_digest(value):
            raise RegistryError(f"{where}: `{part}` is {value!r}, not a SHA-256", "register it again")

    hashes = {name: entry.sha256 for name, entry in version.files.items()}
    stored = {
        "weights": hashes.get(WEIGHTS),
        "adapter_config": hashes.get(ADAPTER_CONFIG),
        "evidence": evidence_digest(hashes),
    }
    for part, value in stored.items():
        if value != getattr(version.identity, part):
            what = f"{where}: the {part} stored are not those that the version's digest covers"
            raise RegistryError(what, "remove that version's folder, or restore it from a copy")


def evidence_digest(hashes: Mapping[str, str]) -> str:
    """Return the digest of the evidence among files (name to SHA-256): names and hashes, sorted."""
    return digest_of({name: value for name, value in hashes.items() if name.startswith(EVIDENCE)})


def check_file_name(name: str) -> None:
    """Refuse a file name that a version may not hold.

    Raises:
        RegistryError: It could lead outside the folder, is reserved, or has a type that is not allowed.
    """
    if not all(_PART.fullmatch(part) for part in name.split("/")) or name == MANIFEST:
        advice = "name files by letters, digits and . _ - below the version's folder"
        raise RegistryError(f"a version cannot hold a file named {name!r}", advice)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _PICKLES:
        what = f"{name} can hold a pickle, which runs code when it is loaded"
        raise RegistryError(what, "save weights as safetensors")
    if suffix not in _ALLOWED:
        advice = f"known types: {' '.join(sorted(_ALLOWED))}"
        raise RegistryError(f"a version cannot hold the file type of {name}", advice)


def check_content(name: str, head: bytes, size: int) -> None:
    """Check the first bytes of a file: its name may hide what it is.

    Args:
        name: The file's name.
        head: Its first 64 bytes or more.
        size: Its size in bytes.

    Raises:
        RegistryError: It is a pickle or an archive, or weights that are not safetensors.
    """
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")):
        raise RegistryError(f"{name} has the content of a pickle or a ZIP archive", "save weights as safetensors")
    if not name.endswith(".safetensors"):
        return
    length = int.from_bytes(head[:8], "little")
    if size < 10 or not 2 <= length <= min(size - 8, _HEAD_LIMIT) or head[8:9] != b"{":
        raise RegistryError(f"{name} is not a safetensors file", "train again, or restore it from a copy")
