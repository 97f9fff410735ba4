"""The registry's commands that write into its log: promote, rollback, deprecate, gc."""

from __future__ import annotations

import datetime
from argparse import Namespace

from tasks.core.errors import RegistryError
from tasks.registry.cli import gto_tags
from tasks.registry.cli.output import Answer, find, registry_of, store_of, table
from tasks.registry.log.names import Address, short
from tasks.registry.release import release, retention
from tasks.registry.versions.registry import names_in

_STALE_SECONDS = 86_400


def promote(words: Namespace) -> Answer:
    """Move an alias to a version, by the gate or by a person's word."""
    if words.override is not None and not words.override.strip():
        raise RegistryError("--override without a reason", 'say why: --override "..."; the log keeps it')
    if words.override and words.reason:
        raise RegistryError("--override and --reason", "give one: an override's reason is its own")
    registry, digest = find(words)
    if words.tag:
        gto_tags.check(registry, digest)  # before anything is changed
    is_moved = release.promote(registry, digest, words.alias, words.override, words.reason)
    said = "now names" if is_moved else "named already, and still names,"
    tags = gto_tags.tag(registry, digest, words.alias) if words.tag else []
    values = {"name": registry.name, "alias": words.alias, "digest": digest, "moved": is_moved, "tags": tags}
    lines = [f"{registry.name}@{words.alias} {said} {short(digest)}"]
    lines += [f"tagged {', '.join(tags)}: publish them with `git push --tags`"] if tags else []
    return Answer(values, lines)


def rollback(words: Namespace) -> Answer:
    """Move an alias back to the version that it named before."""
    registry = registry_of(store_of(words), Address.parse(words.name).name)
    left = registry.find(words.left.removeprefix(f"{registry.name}@")) if words.left else None
    left, reached = release.rollback(registry, words.alias, words.reason, left)
    lines = [f"{registry.name}@{words.alias} now names {short(reached)} again, no longer {short(left)}"]
    return Answer({"name": registry.name, "alias": words.alias, "digest": reached, "previous": left}, lines)


def deprecate(words: Namespace) -> Answer:
    """Mark a version as one not to be used or promoted any more, or take that back."""
    registry, digest = find(words)
    name = f"{registry.name} {short(digest)}"
    if words.undo:
        is_changed = release.restore(registry, digest, words.reason)
        said = f"{name} is no longer deprecated" if is_changed else f"{name} was not deprecated"
    else:
        if not (words.reason or "").strip():
            raise RegistryError("deprecate without a reason", 'say why: --reason "..."; the log keeps it')
        is_changed = release.deprecate(registry, digest, words.reason)
        said = f"{name} is deprecated" if is_changed else f"{name} was deprecated already"
    return Answer({"name": registry.name, "digest": digest, "changed": is_changed, "undo": words.undo}, [said])


def gc(words: Namespace) -> Answer:
    """Give up the versions that nothing needs, and remove their files; without --apply only say so."""
    store = store_of(words)
    every = {name: registry_of(store, name) for name in names_in(store)}
    chosen = [registry_of(store, words.name).name] if words.name else list(every)
    now = datetime.datetime.now(datetime.UTC)
    plans = retention.plan(list(every.values()), words.days, now)
    values, rows, removed = [], [], 0
    for name in chosen:
        plan = plans[name]
        rows += [[name, short(digest), "keep", why] for digest, why in plan.kept.items()]
        rows += [[name, short(digest), "remove", "nothing needs it"] for digest in plan.given_up]
        rows += [[name, "-", "remove", f"left over: {key}"] for key in plan.leftovers]
        done = retention.sweep(every[name], plan) if words.apply else []
        removed += len(done)
        told = {"kept": plan.kept, "given_up": plan.given_up, "leftovers": plan.leftovers, "removed": done}
        values.append({"name": name, **told})
    if words.apply:
        removed += store.sweep(_STALE_SECONDS)
        last = f"removed {removed} objects"
    else:
        last = "nothing was changed: --apply does it"
    return Answer(values, [*table(["name", "version", "what", "why"], rows), last])
