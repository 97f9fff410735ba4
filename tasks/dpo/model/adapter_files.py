"""The files of the adapter that training continues from, and its identity. Needs neither torch nor PEFT."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tasks.core.errors import ConfigError
from tasks.core.files import MANIFEST, digest_of, read_json, sha256_bytes, write_bytes

KEY = "train.init_adapter"
FOLDER = "adapter"  # in data/reference/, where the reference stage pins the adapter
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclasses.dataclass(frozen=True)
class AdapterFiles:
    """An adapter's two files.

    Attributes:
        source: What `train.init_adapter` says.
        weights: Bytes of `adapter_model.safetensors`.
        config: Bytes of `adapter_config.json`.
        base: Digest of the base that it was trained on, where that is known.
    """

    source: str
    weights: bytes
    config: bytes
    base: str | None = None

    @property
    def digest(self) -> str:
        """The adapter's identity: a SHA-256 in hex over its two files."""
        return digest_of({WEIGHTS: sha256_bytes(self.weights), CONFIG: sha256_bytes(self.config)})

    @classmethod
    def read(cls, folder: Path, source: str) -> AdapterFiles:
        """Read the adapter in ``folder``, as PEFT or the train stage saved it.

        Raises:
            ConfigError: A file is missing.
            ArtifactError: The manifest beside it is no JSON.
        """
        missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
        if missing:
            pickles = sorted(path.name for path in folder.glob("adapter_model.*") if path.name != WEIGHTS)
            told = f" (pickles, as {pickles[0]}, are not read)" if pickles else ""
            raise ConfigError(f"`{KEY}`: {folder} holds no {missing[0]}{told}", "save the adapter with PEFT there")
        manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
        base = manifest.get("inputs", {}).get("base") if isinstance(manifest, dict) else None
        return cls(source, (folder / WEIGHTS).read_bytes(), (folder / CONFIG).read_bytes(), base)

    def write(self, folder: Path) -> None:
        """Write both files into ``folder``."""
        write_bytes(folder / WEIGHTS, self.weights)
        write_bytes(folder / CONFIG, self.config)

    def refuse_other_base(self, base_digest: str) -> None:
        """Refuse an adapter that is known to have been trained on another base.

        Raises:
            ConfigError: It was.
        """
        if self.base not in (None, base_digest):
            told = f"`{KEY}`: {self.source} was trained on another base (digest {str(self.base)[:12]})"
            raise ConfigError(told, f"choose that base in `base`, or an adapter of this one ({base_digest[:12]})")
