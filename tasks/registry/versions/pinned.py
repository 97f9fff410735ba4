"""An adapter of the registry that a param names, by its whole digest: any shorter name may mean another one tomorrow.

`registry:demo@<64 digits>`, or the same without `registry:`. What moves (an alias, a serial, a prefix) is refused,
and the error says what it names now; `python -m tasks.registry pin` writes that into params.yaml.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.files import write_text
from tasks.core.params import parse_params
from tasks.registry.log import names
from tasks.registry.stores.store import Store
from tasks.registry.versions.manifest import ADAPTER_CONFIG, PARAMS, WEIGHTS
from tasks.registry.versions.registry import Registry, names_in

PREFIX = "registry:"


@dataclasses.dataclass(frozen=True)
class PinnedAdapter:
    """A version's adapter, its bytes verified.

    Attributes:
        name: The line of versions.
        digest: The version.
        weights: Bytes of `adapter_model.safetensors`.
        config: Bytes of `adapter_config.json`.
        base: Digest of the base that it was trained on.
        params: Text of the params.yaml that it was trained with.
    """

    name: str
    digest: str
    weights: bytes
    config: bytes
    base: str
    params: str = ""

    def write(self, folder: Path) -> None:
        """Write both files into ``folder``, as PEFT reads them."""
        (folder / WEIGHTS).write_bytes(self.weights)
        (folder / ADAPTER_CONFIG).write_bytes(self.config)

    def refuse_other_base(self, base_digest: str, key: str) -> None:
        """Refuse an adapter of another base.

        Raises:
            ConfigError: It was trained on another one; ``key`` is the param that names it.
        """
        if self.base != base_digest:
            told = f"`{key}`: {self.name}@{names.short(self.digest)} was trained on another base ({self.base[:12]})"
            raise ConfigError(told, f"choose that base in `base`, or an adapter of this one ({base_digest[:12]})")

    def refuse_other_split(self, ingest: Mapping[str, Any], key: str) -> None:
        """Refuse to train on from an adapter that has seen prompts which are held out now.

        Held-out prompts of one seed are those of every larger share, so a share that did not grow is safe.

        Args:
            ingest: The section of params.yaml.
            key: The param that names the adapter.

        Raises:
            ConfigError: Its split was another.
        """
        its = (parse_params(self.params, f"its {PARAMS}") if self.params else {}).get("ingest") or {}
        (share, seed), (own_share, own_seed) = (_split(section) for section in (its, ingest))
        if None in (share, seed, own_share, own_seed) or (seed == own_seed and own_share <= share):
            return
        told = (
            f"`{key}`: {self.name}@{names.short(self.digest)} was trained on prompts that are held out here: its "
            f"`ingest.test_share` was {share} with `split_seed` {seed}, here {own_share} with {own_seed}"
        )
        raise ConfigError(told, f"write `split_seed: {seed}` and a `test_share` of at most {share}")


def _split(ingest: Mapping[str, Any]) -> tuple[Any, Any]:
    return ingest.get("test_share"), ingest.get("split_seed")


def read_pinned(word: str, store: Store, key: str) -> PinnedAdapter:
    """Read the version that the param ``key`` names by ``word``.

    Raises:
        ConfigError: It names nothing there, or something that may be another adapter tomorrow.
        RegistryError: The version is damaged.
    """
    name, _, selector = word.removeprefix(PREFIX).rpartition("@")
    lines = [name] if name else names_in(store)
    if names.is_digest(selector):
        for line in lines:
            registry = Registry(store, line)
            if registry.has(selector):
                files = (registry.read_file(selector, file) for file in (WEIGHTS, ADAPTER_CONFIG, PARAMS))
                weights, config, params = files
                base = registry.read(selector).identity.base
                return PinnedAdapter(line, selector, weights, config, base, params.decode())
        raise ConfigError(f"`{key}`: {store.label} holds no version {word}", "see `python -m tasks.registry list`")
    if not name and selector in lines:
        name, selector = selector, ""
    if name:
        digest = Registry(store, name).find(selector or None)
        raise ConfigError(f"`{key}` is {word}, which may name another version tomorrow", f"write {name}@{digest}")
    told = f"`{key}` is {word}, which is no version of the registry {store.label}"
    raise ConfigError(told, "give `name@digest`; `python -m tasks.registry list` shows them")


def pin(params: Path, key: str, value: str | None) -> bool:
    """Write ``value`` behind ``key``, as `respond.champion`, and leave every other byte; False if it stands there.

    Raises:
        ConfigError: The file has no such key.
    """
    section, _, name = key.partition(".")
    text = params.read_text(encoding="utf-8") if params.is_file() else ""
    block = re.search(rf"^{re.escape(section)}:[^\n]*\n(?:(?:[ #][^\n]*)?\n)*", text, re.MULTILINE)
    line = block and re.search(rf"^(  {re.escape(name)}:)[^\n]*$", block[0], re.MULTILINE)
    if not block or not line:
        raise ConfigError(f"{params} has no key `{key}`", "copy it from the repository's params.yaml")
    start = block.start() + line.start()
    new = f"{line[1]} {'null' if value is None else value}"
    changed = text[:start] + new + text[start + len(line[0]) :]
    if changed == text:
        return False
    write_text(params, changed)
    return True
