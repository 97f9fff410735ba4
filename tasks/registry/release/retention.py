"""Which versions' files are kept, and which are given up: retention, and the sweep that follows.

A version is kept while an alias names it or would name it after a rollback, while a log entry younger than so many
days speaks of it, and while a kept version was trained from it. What is given up is first recorded in the log, then
removed, the manifest before all else; so a reader never sees a part of a version, and a sweep that was killed is
completed by the next. The log itself is never shortened.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Sequence

from tasks.core.files import MANIFEST
from tasks.registry.log.entries import COLLECT, Deed, LogEntry
from tasks.registry.log.history import History
from tasks.registry.stores.store import in_parallel
from tasks.registry.versions.manifest import LINEAGE
from tasks.registry.versions.registry import Registry

DAYS = 90
_STALE_SECONDS = 86_400  # what a registration under way may take


@dataclasses.dataclass(frozen=True)
class Retention:
    """What a sweep of one name would keep and remove.

    Attributes:
        kept: Why each version is kept, by digest.
        given_up: Digests of the versions that nothing needs.
        leftovers: Keys of files that belong to no version: of those given up before, and of registrations cut short.
    """

    kept: dict[str, str]
    given_up: list[str]
    leftovers: list[str]


def plan(registries: Sequence[Registry], days: float, now: datetime.datetime) -> dict[str, Retention]:
    """Decide, for every name of a store, what a sweep keeps and removes.

    Args:
        registries: All names of the store, for a version's child may have another name.
        days: For how long a log entry keeps the version that it speaks of.
        now: The present, with a time zone.
    """
    kept: dict[tuple[str, str], str] = {}
    for registry in registries:
        for digest, why in _needed(registry, days, now):
            kept.setdefault((registry.name, digest), why)
    by_name = {registry.name: registry for registry in registries}
    todo = list(kept)
    while todo:
        name, child = todo.pop()
        for parent in _parents(by_name[name], child, by_name):
            if parent not in kept:
                kept[parent] = f"{name} {child[:12]} was trained from it"
                todo.append(parent)
    return {registry.name: _retention(registry, kept) for registry in registries}


def sweep(registry: Registry, retention: Retention) -> list[str]:
    """Give up what ``retention`` says, in the log and then in the store; return the keys removed.

    A version that an alias came to name meanwhile stays.
    """
    removed: list[str] = []
    for digest in retention.given_up:
        registry.log.append(lambda history, digest=digest: _give_up(history, digest))  # type: ignore[misc]
        if digest in registry.history().collected:
            removed += _remove(registry, sorted(registry.store.ages(_folder(registry, digest))))
    known = set(registry.history().kept())
    removed += _remove(registry, [key for key in retention.leftovers if key.split("/")[2] not in known])
    return removed


def _give_up(history: History, digest: str) -> Deed | None:
    is_named = any(_reach(line, history) & {digest} for line in history.lines.values())
    return None if is_named or digest not in history.kept() else Deed(COLLECT, digest)


def _needed(registry: Registry, days: float, now: datetime.datetime) -> Iterator[tuple[str, str]]:
    """Yield every version that is needed for itself, with the reason."""
    history = registry.history()
    for alias, line in history.lines.items():
        for digest in _reach(line, history):
            yield digest, f"`{alias}` names it" if digest == line[-1] else f"a rollback of `{alias}` leads to it"
    for entry in registry.log.entries():
        if (age := _days(entry, now)) <= days and entry.deed.version not in history.collected:
            yield entry.deed.version, f"{entry.deed.action} {age:.0f} days ago"


def _reach(line: Sequence[str], history: History) -> set[str]:
    """Return the version that an alias names, and the one that a rollback would lead to."""
    return {digest for digest in line[-2:] if digest not in history.collected}


def _parents(registry: Registry, digest: str, known: dict[str, Registry]) -> Iterator[tuple[str, str]]:
    """Yield the version that a version was trained from, where it is in the same store."""
    parent = json.loads(registry.read_file(digest, LINEAGE)).get("parent") or {}
    for name in [parent["name"]] if parent.get("name") in known else known:
        if parent.get("digest") in known[name].history().kept():
            yield name, parent["digest"]


def _retention(registry: Registry, kept: dict[tuple[str, str], str]) -> Retention:
    history = registry.history()
    own = {digest: why for (name, digest), why in kept.items() if name == registry.name}
    given_up = [digest for digest in history.kept() if digest not in own]
    strangers = [name for name in registry.store.children(f"{registry.name}/versions") if name not in history.kept()]
    found = in_parallel(registry.store, lambda name: registry.store.ages(_folder(registry, name)), strangers)
    leftovers = [
        key
        for name, ages in zip(strangers, found, strict=True)
        if name in history.collected or min(ages.values(), default=0.0) > _STALE_SECONDS
        for key in ages
    ]
    return Retention(own, given_up, sorted(leftovers))


def _remove(registry: Registry, keys: Sequence[str]) -> list[str]:
    """Remove objects, every manifest first: without it the rest is no version."""
    first = [key for key in keys if key.endswith(f"/{MANIFEST}")]
    rest = [key for key in keys if key not in set(first)]
    for group in (first, rest):
        in_parallel(registry.store, registry.store.remove, group)
    return [*first, *rest]


def _folder(registry: Registry, digest: str) -> str:
    return f"{registry.name}/versions/{digest}"


def _days(entry: LogEntry, now: datetime.datetime) -> float:
    return max((now - datetime.datetime.fromisoformat(entry.when)).total_seconds() / 86_400, 0.0)
