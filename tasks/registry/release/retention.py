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
from tasks.registry.log.entries import Event
from tasks.registry.log.history import History
from tasks.registry.release.release import collection
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
        leftovers: Folders that belong to no version: of earlier collections and registrations cut short.
        entries: How many entries the log had when this was decided.
    """

    kept: dict[str, str]
    given_up: list[str]
    leftovers: list[str]
    entries: int


def plan(registries: Sequence[Registry], days: float, now: datetime.datetime) -> dict[str, Retention]:
    """Decide, for each name of a store, what a collection keeps and removes.

    Args:
        registries: All names of the store, because a version's child may have another name.
        days: How long a log entry keeps the version that it is about.
        now: The present, with a time zone.
    """
    known = {registry.name: registry.history().kept() for registry in registries}  # those registered later stay
    entries = {registry.name: len(registry.log.last.entries) for registry in registries}
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
    return {
        registry.name: _retention(registry, known[registry.name], entries[registry.name], kept)
        for registry in registries
    }


def sweep(registry: Registry, retention: Retention) -> list[str]:
    """Collect what ``retention`` says, in the log and then in the store; return the keys removed.

    The log is looked at again before each removal. A version stays if an alias has come to point to it meanwhile, or if
    it was registered again; a registration behind the collection is in another folder.
    """
    removed: list[str] = []
    for digest in retention.given_up:
        folder = f"{registry.name}/versions/{registry.history().folder(digest)}"
        if registry.log.append(functools.partial(_collect, retention.entries, digest)):
            removed += _remove(registry, folder)
    for folder in retention.leftovers:
        if _is_leftover(registry, folder, registry.history()):
            removed += _remove(registry, folder)
    return removed


def _collect(entries: int, digest: str, history: History) -> Event | None:
    is_renewed = any(entry.event.version == digest for entry in history.entries[entries:])
    return None if is_renewed else collection(digest, history)


def _needed(registry: Registry, days: float, now: datetime.datetime) -> Iterator[tuple[str, str]]:
    """Yield each version that an alias or a young log entry needs, with the reason."""
    history = registry.history()
    for alias, targets in sorted(history.targets.items()):
        for digest in history.reachable(alias):
            yield digest, f"`{alias}` points to it" if digest == targets[-1] else f"a rollback of `{alias}` leads to it"
    for entry in history.entries:
        event = entry.event
        age = max((now - datetime.datetime.fromisoformat(entry.when)).total_seconds() / 86_400, 0.0)
        if age <= days and event.version not in history.collected:
            yield event.version, f"{event.action} {age:.0f} days ago"


def _parents(registry: Registry, digest: str, known: dict[str, Registry]) -> Iterator[tuple[str, str]]:
    """Yield the name and digest of the version that a version was trained from, if it is in the same store."""
    parent = json.loads(registry.read_file(digest, LINEAGE)).get("parent") or {}
    for name in [parent["name"]] if parent.get("name") in known else known:
        if parent.get("digest") in known[name].history().kept():
            yield name, parent["digest"]


def _retention(registry: Registry, known: Sequence[str], entries: int, kept: dict[tuple[str, str], str]) -> Retention:
    history, store = registry.history(), registry.store
    reasons = {digest: why for (name, digest), why in kept.items() if name == registry.name}
    given_up = [digest for digest in known if digest not in reasons]

    folders = [f"{registry.name}/versions/{name}" for name in store.children(f"{registry.name}/versions")]
    checked = in_parallel(store, lambda folder: _is_leftover(registry, folder, history), folders)
    leftovers = [folder for folder, is_leftover in zip(folders, checked, strict=True) if is_leftover]
    return Retention(reasons, given_up, leftovers, entries)


def _is_leftover(registry: Registry, folder: str, history: History) -> bool:
    """Tell whether a folder below `versions/` holds no version, and no registration can be under way there."""
    name = folder.rpartition("/")[2]
    digest = name.partition("-")[0]
    if name != history.folder(digest):
        return digest in history.registered  # it was collected from there
    ages = {} if history.is_kept(digest) else registry.store.ages(folder)
    return min(ages.values(), default=0.0) > STALE_SECONDS


def _remove(registry: Registry, folder: str) -> list[str]:
    """Remove a folder below `versions/`, the manifest first: without it the rest is no version. Return the keys."""
    keys = sorted(registry.store.ages(folder))
    first = [key for key in keys if key.endswith(f"/{MANIFEST}")]
    rest = [key for key in keys if key not in first]
    for group in (first, rest):
        in_parallel(registry.store, registry.store.remove, group)
    return [*first, *rest]
