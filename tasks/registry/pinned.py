"""An adapter of the registry that a param names, by its whole digest: any shorter name may mean another one tomorrow.

`registry:demo@<64 digits>`, or the same without `registry:`. What moves (an alias, a serial, a prefix) is refused,
and the error says what it names now; `python -m tasks.registry pin` writes that into params.yaml.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from tasks.core.errors import ConfigError
from tasks.core.files import write_text
from tasks.registry import names
from tasks.registry.entry import ADAPTER_CONFIG, WEIGHTS
from tasks.registry.registry import Registry, names_in
from tasks.registry.store import Store

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
    """

    name: str
    digest: str
    weights: bytes
    config: bytes
    base: str

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
                weights, config = (registry.read_file(selector, file) for file in (WEIGHTS, ADAPTER_CONFIG))
                return PinnedAdapter(line, selector, weights, config, registry.read(selector).identity.base)
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
