"""Pin the adapters that params.yaml names: the one that training continues from, and the champion to be compared with.

reads:  what `train.init_adapter` and `respond.champion` name: a folder or a version of the registry; data/base/
writes: data/adapters/init/, data/adapters/champion/ — two files and a manifest; for null, a manifest that says so
params: `train.init_adapter`, `respond.champion`, `register.root`; `ingest.test_share` and `ingest.split_seed`, which
        tell whether the version was trained on prompts that are held out now
run as: python -m tasks.adapters

A version is named by its digest, so it is the same wherever the registry lies. The stages behind this one read folders.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError
from tasks.core.files import MANIFEST, atomic_folder, read_json, write_bytes
from tasks.core.params import load_params
from tasks.core.paths import ADAPTER as WRITTEN_BY_TRAIN  # refused as an input, so that it is no dep
from tasks.core.pinned_adapter import (
    CHAMPION_KEY,
    CONFIG,
    INIT_KEY,
    WEIGHTS,
    PinnedAdapter,
    adapter_digest,
    refuse_damaged,
)
from tasks.core.section import show
from tasks.launch.stage import door
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.pinned import PREFIX, find_version, refuse_leaking_split
from tasks.telemetry.log import get_logger

_log = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class AdaptersConfig:
    """The adapters that other sections of params.yaml name, and what their check needs.

    Attributes:
        init_adapter: `train.init_adapter`: a folder in PEFT's format or `NAME@DIGEST` of the registry; None for none.
        champion: `respond.champion`: `NAME@DIGEST` of the registry; None for none.
        root: `register.root`: where the registry is.
        split: `test_share` and `split_seed` of `ingest`.
    """

    init_adapter: str | None = None
    champion: str | None = None
    root: str = "models/registry"
    split: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, word in ((INIT_KEY, self.init_adapter), (CHAMPION_KEY, self.champion)):
            if word is not None and not (isinstance(word, str) and word):
                raise ConfigError(f"`{key}` is {word!r}", "give a folder, `name@digest` of the registry, or null")

    @classmethod
    def read(cls, params: Path) -> AdaptersConfig:
        """Gather the keys from their sections of a params file; a section that is absent says nothing.

        Raises:
            ConfigError: The file is malformed, one of the sections is no mapping, or a key names no adapter.
        """
        document = load_params(params)
        sections = {name: document.get(name) or {} for name in ("train", "respond", "register", "ingest")}
        for name, section in sections.items():
            if not isinstance(section, dict):
                raise ConfigError(f"`{name}` is {show(section)}, not a mapping of keys", "see params.yaml for its keys")

        train, respond, register, ingest = sections.values()
        split = {key: ingest.get(key) for key in ("test_share", "split_seed")}
        return cls(train.get("init_adapter"), respond.get("champion"), str(register.get("root", cls.root)), split)


@dataclasses.dataclass(frozen=True)
class Folders:
    """What the stage reads and writes."""

    base: Path = paths.BASE
    init: Path = paths.INIT_ADAPTER
    champion: Path = paths.CHAMPION


def run(folders: Folders, config: AdaptersConfig) -> None:
    """Write both adapters, checked, each into a folder of its own.

    Raises:
        ConfigError: A key names no adapter, one without a digest, one of another base, or one trained on prompts that
            are held out now.
        ArtifactError, RegistryError: An adapter or a version is damaged, or the base is missing.
    """
    base = BaseModel.open(folders.base, check_files=False).digest
    _pin(folders.init, INIT_KEY, config.init_adapter, config, base)
    _pin(folders.champion, CHAMPION_KEY, config.champion, config, base)


def _pin(out: Path, key: str, word: str | None, config: AdaptersConfig, base: str) -> None:
    """Write the adapter that ``key`` names by ``word`` into ``out``, or a manifest that says that there is none."""
    about: dict[str, Any] = {"stage": "adapters", "source": None}
    with atomic_folder(out, about) as draft:
        if word is None:
            return
        is_folder = key == INIT_KEY and Path(word).is_dir() and not word.startswith(PREFIX)
        adapter = _from_folder(word, draft) if is_folder else _from_registry(word, key, config, draft)
        refuse_damaged(draft, word)
        if adapter.base not in (None, base):
            what = f"`{key}`: {word} was trained on another base (digest {str(adapter.base)[:12]})"
            raise ConfigError(what, f"choose that base in `base`, or an adapter of this one ({base[:12]})")
        about.update(adapter.facts())
    _log.info("%s: %s, pinned as %s", key, word, adapter.digest[:12])


def _from_folder(word: str, draft: Path) -> PinnedAdapter:
    """Copy the adapter in a folder, as PEFT or the train stage saved it."""
    folder = Path(word)
    if folder.resolve() == WRITTEN_BY_TRAIN.resolve():
        what = f"`{INIT_KEY}` is {folder}, which the train stage itself writes"
        raise ConfigError(what, "name the registry's version of it, or copy it to another folder")
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            pickles = sorted(path.name for path in folder.glob("adapter_model.*") if path.name != WEIGHTS)
            more = f" (pickles, as {pickles[0]}, are not read)" if pickles else ""
            raise ConfigError(f"`{INIT_KEY}`: {folder} holds no {name}{more}", "save the adapter with PEFT there")
        write_bytes(draft / name, (folder / name).read_bytes())

    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    base = manifest.get("inputs", {}).get("base") if isinstance(manifest, dict) else None
    return PinnedAdapter(draft, word, adapter_digest(draft), base)


def _from_registry(word: str, key: str, config: AdaptersConfig, draft: Path) -> PinnedAdapter:
    """Copy a version's adapter, its bytes verified."""
    if key == INIT_KEY and "/" in word and "@" not in word and not word.startswith(PREFIX):
        raise ConfigError(f"`{key}`: there is no folder {word}", "correct the path")
    registry, version = find_version(word, open_store(config.root), key)
    if key == INIT_KEY:
        refuse_leaking_split(registry, version, config.split, key)
    for name in (WEIGHTS, CONFIG):
        write_bytes(draft / name, registry.read_file(version, name))
    base = registry.read(version).identity.base
    return PinnedAdapter(draft, word, adapter_digest(draft), base, registry.name, version)


def main() -> None:
    """Bind the standard paths and the keys of params.yaml."""
    with door("adapters", AdaptersConfig.read) as config:
        run(Folders(), config)


if __name__ == "__main__":
    main()
