"""Retention: which versions' files are kept, and the garbage collection of the others.

A version is kept while an alias points to it or would after a rollback, while a log entry about it is younger than so
many days, and while a kept version was trained from it. A collection is first recorded in the log, then the files are
removed, the manifest first. So a reader never sees part of a version, and a collection that was killed is completed by
the next. The log itself is never shortened.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
from collections.abc import Iterator, Sequence

from tasks.core.files import MANIFEST
from tasks.registry.log.entries import COLLECT, Event
from tasks.registry.log.history import History
from tasks.registry.stores.store import in_parallel
from tasks.registry.versions.manifest import LINEAGE
from tasks.registry.versions.registry import Registry

DAYS = 90
STALE_SECONDS = 86_400  # longer than any registration takes


@dataclasses.dataclass(frozen=True)
class Retention:
    """What a collection of one name keeps and removes.

    Attributes:
        kept: Why each version is kept, by digest.
        given_up: Digests of the versions that nothing needs.
        leftovers: Keys of files that belong to no version: of earlier collections and registrations cut short.
    """

    kept: dict[str, str]
    given_up: list[str]
    leftovers: list[str]


def plan(registries: Sequence[Registry], days: float, now: datetime.datetime) -> dict[str, Retention]:
    """Decide, for each name of a store, what a collection keeps and removes.

    Args:
        registries: All names of the store, because a version's child may have another name.
        days: How long a log entry keeps the version that it is about.
        now: The present, with a time zone.
    """
    known = {registry.name: registry.history().kept() for registry in registries}  # those registered later stay
    kept: dict[tuple[str, str], str] = {}
    for registry in registries:
        for digest, why in _needed(registry, days, now):
            kept.setdefault((registry.name, digest), why)

    # the versions that a kept one was trained from, and so on up
    by_name = {registry.name: registry for registry in registries}
    todo = list(kept)
    while todo:
        name, child = todo.pop()
        for parent in _parents(by_name[name], child, by_name):
            if parent not in kept:
                kept[parent] = f"{name} {child[:12]} was trained from it"
                todo.append(parent)
    return {registry.name: _retention(registry, known[registry.name], kept) for registry in registries}


def sweep(registry: Registry, retention: Retention) -> list[str]:
    """Collect what ``retention`` says, in the log and then in the store; return the keys removed.

    A version stays if an alias has come to point to it meanwhile.
    """
    removed: list[str] = []
    for digest in retention.given_up:
        registry.log.append(functools.partial(_collect, digest))
        if digest in registry.history().collected:
            removed += _remove(registry, sorted(registry.store.ages(_folder(registry, digest))))
    known = set(registry.history().kept())
    removed += _remove(registry, [key for key in retention.leftovers if key.split("/")[2] not in known])
    return removed


def _collect(digest: str, history: History) -> Event | None:
    is_needed = any(digest in _reachable(targets, history) for targets in history.targets.values())
    return None if is_needed or digest not in history.kept() else Event(COLLECT, digest)


def _needed(registry: Registry, days: float, now: datetime.datetime) -> Iterator[tuple[str, str]]:
    """Yield each version that an alias or a young log entry needs, with the reason."""
    history = registry.history()
    for alias, targets in sorted(history.targets.items()):
        for digest in _reachable(targets, history):
            yield digest, f"`{alias}` points to it" if digest == targets[-1] else f"a rollback of `{alias}` leads to it"
    for entry in history.entries:
        event = entry.event
        age = max((now - datetime.datetime.fromisoformat(entry.when)).total_seconds() / 86_400, 0.0)
        if age <= days and event.version not in history.collected:
            yield event.version, f"{event.action} {age:.0f} days ago"


def _reachable(targets: Sequence[str], history: History) -> set[str]:
    """Return the version that an alias points to, and the one that a rollback would lead to."""
    return {digest for digest in targets[-2:] if digest not in history.collected}


def _parents(registry: Registry, digest: str, known: dict[str, Registry]) -> Iterator[tuple[str, str]]:
    """Yield the name and digest of the version that a version was trained from, if it is in the same store."""
    parent = json.loads(registry.read_file(digest, LINEAGE)).get("parent") or {}
    for name in [parent["name"]] if parent.get("name") in known else known:
        if parent.get("digest") in known[name].history().kept():
            yield name, parent["digest"]


def _retention(registry: Registry, known: Sequence[str], kept: dict[tuple[str, str], str]) -> Retention:
    history, store = registry.history(), registry.store
    reasons = {digest: why for (name, digest), why in kept.items() if name == registry.name}
    given_up = [digest for digest in known if digest not in reasons]

    unknown = [name for name in store.children(f"{registry.name}/versions") if name not in history.kept()]
    ages_of = in_parallel(store, lambda name: store.ages(_folder(registry, name)), unknown)
    leftovers = [
        key
        for name, ages in zip(unknown, ages_of, strict=True)
        if name in history.collected or min(ages.values(), default=0.0) > STALE_SECONDS
        for key in ages
    ]
    return Retention(reasons, given_up, sorted(leftovers))


def _remove(registry: Registry, keys: Sequence[str]) -> list[str]:
    """Remove objects, the manifests first: without its manifest the rest is no version."""
    first = [key for key in keys if key.endswith(f"/{MANIFEST}")]
    rest = [key for key in keys if key not in set(first)]
    for group in (first, rest):
        in_parallel(registry.store, registry.store.remove, group)
    return [*first, *rest]


def _folder(registry: Registry, digest: str) -> str:
    return f"{registry.name}/versions/{digest}"
