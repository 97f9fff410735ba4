"""A version of the registry that a param names, by its whole digest: a shorter name may mean another version tomorrow.

`registry:demo@<64 digits>`, or the same without `registry:`. A name that moves (an alias, a serial, a prefix) is
refused, and the error says which version it names now; `python -m tasks.registry pin` writes that into params.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.files import write_text
from tasks.core.params import parse_params
from tasks.registry.log import names
from tasks.registry.stores.store import Store
from tasks.registry.versions.manifest import PARAMS
from tasks.registry.versions.registry import Registry, names_in

PREFIX = "registry:"


def find_version(word: str, store: Store, key: str) -> tuple[Registry, str]:
    """Return the versions of a name, and the digest of the one that the param ``key`` names by ``word``.

    Raises:
        ConfigError: It names no version there, or something that may be another version tomorrow.
        RegistryError: The registry is damaged.
    """
    name, _, selector = word.removeprefix(PREFIX).rpartition("@")
    known = [name] if name else names_in(store)
    if names.is_digest(selector):
        for candidate in known:
            if (registry := Registry(store, candidate)).has(selector):
                return registry, selector
        raise ConfigError(f"`{key}`: {store.label} holds no version {word}", "see `python -m tasks.registry list`")

    if not name and selector in known:
        name, selector = selector, ""
    if name:
        digest = Registry(store, name).find(selector or None)
        raise ConfigError(f"`{key}` is {word}, which may name another version tomorrow", f"write {name}@{digest}")
    what = f"`{key}` is {word}, which is no version of the registry {store.label}"
    raise ConfigError(what, "give `name@digest`; `python -m tasks.registry list` shows them")


def refuse_leaking_split(registry: Registry, digest: str, ingest: Mapping[str, Any], key: str) -> None:
    """Refuse to continue training from a version that was trained on prompts which are held out now.

    The held-out prompts of a seed are among those of every larger share with that seed, so a share that did not grow
    is safe.

    Args:
        registry: The versions of a name.
        digest: The version.
        ingest: `test_share` and `split_seed` of params.yaml.
        key: The param that names the version.

    Raises:
        ConfigError: Its split was another.
    """
    params = registry.read_file(digest, PARAMS).decode()
    its_ingest = (parse_params(params, f"its {PARAMS}") if params else {}).get("ingest") or {}
    its_share, its_seed = _split(its_ingest)
    share, seed = _split(ingest)
    if None in (its_share, its_seed, share, seed) or (its_seed == seed and share <= its_share):
        return
    what = (
        f"`{key}`: {registry.name}@{names.short(digest)} was trained on prompts that are held out here: its "
        f"`ingest.test_share` was {its_share} with `split_seed` {its_seed}, here {share} with {seed}"
    )
    raise ConfigError(what, f"write `split_seed: {its_seed}` and a `test_share` of at most {its_share}")


def _split(ingest: Mapping[str, Any]) -> tuple[Any, Any]:
    return ingest.get("test_share"), ingest.get("split_seed")


def pin(params: Path, key: str, value: str | None) -> bool:
    """Write ``value`` as the value of ``key``, such as `respond.champion`; no other byte of the file changes.

    Returns:
        Whether the value changed.

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
