"""The registry's commands that write into its log: promote, rollback, deprecate, gc."""

from __future__ import annotations

import dataclasses
import datetime
from argparse import Namespace

from tasks.core.errors import RegistryError
from tasks.registry.cli import gto_tags
from tasks.registry.cli.output import Answer, find, registry_of, store_of, table
from tasks.registry.log.names import Address, short
from tasks.registry.release import release, retention
from tasks.registry.versions.registry import names_in


def promote(args: Namespace) -> Answer:
    """Move an alias to a version, by the gate or by a person's override."""
    if args.override is not None and not args.override.strip():
        raise RegistryError("--override without a reason", 'say why: --override "..."; the log keeps it')
    if args.override and args.reason:
        raise RegistryError("--override and --reason", "give one: an override's reason is its own")
    registry, digest = find(args)
    if args.tag:
        gto_tags.check(registry, digest)  # before anything is changed
    is_moved = release.promote(registry, digest, args.alias, args.override, args.reason)
    said = "now points to" if is_moved else "already points to"
    tags = gto_tags.tag(registry, digest, args.alias) if args.tag else []
    values = {"name": registry.name, "alias": args.alias, "digest": digest, "moved": is_moved, "tags": tags}
    lines = [f"{registry.name}@{args.alias} {said} {short(digest)}"]
    lines += [f"tagged {', '.join(tags)}: publish them with `git push --tags`"] if tags else []
    return Answer(values, lines)


def rollback(args: Namespace) -> Answer:
    """Move an alias back to the version that it pointed to before."""
    registry = registry_of(store_of(args), Address.parse(args.name).name)
    left = registry.find(args.left.removeprefix(f"{registry.name}@")) if args.left else None
    previous, digest = release.rollback(registry, args.alias, args.reason, left)
    lines = [f"{registry.name}@{args.alias} points to {short(digest)} again, no longer to {short(previous)}"]
    return Answer({"name": registry.name, "alias": args.alias, "digest": digest, "previous": previous}, lines)


def deprecate(args: Namespace) -> Answer:
    """Mark a version as not to be used or promoted any more, or take that back."""
    registry, digest = find(args)
    name = f"{registry.name} {short(digest)}"
    if args.undo:
        is_changed = release.restore(registry, digest, args.reason)
        said = f"{name} is no longer deprecated" if is_changed else f"{name} was not deprecated"
    else:
        if not (args.reason or "").strip():
            raise RegistryError("deprecate without a reason", 'say why: --reason "..."; the log keeps it')
        is_changed = release.deprecate(registry, digest, args.reason)
        said = f"{name} is deprecated" if is_changed else f"{name} was deprecated already"
    return Answer({"name": registry.name, "digest": digest, "changed": is_changed, "undo": args.undo}, [said])


def gc(args: Namespace) -> Answer:
    """Remove the files of versions that nothing needs; without --apply only show them."""
    store = store_of(args)
    every = {name: registry_of(store, name) for name in names_in(store)}
    chosen = [registry_of(store, args.name).name] if args.name else list(every)
    plans = retention.plan(list(every.values()), args.days, datetime.datetime.now(datetime.UTC))

    values, rows, removed = [], [], 0
    for name in chosen:
        plan = plans[name]
        rows += [[name, short(digest), "keep", why] for digest, why in plan.kept.items()]
        rows += [[name, short(digest), "remove", "nothing needs it"] for digest in plan.given_up]
        rows += [[name, "-", "remove", f"left over: {key}"] for key in plan.leftovers]
        keys = retention.sweep(every[name], plan) if args.apply else []
        removed += len(keys)
        values.append({"name": name, **dataclasses.asdict(plan), "removed": keys})

    if args.apply:
        removed += store.sweep(retention.STALE_SECONDS)
        last = f"removed {removed} objects"
    else:
        last = "nothing was changed: --apply does it"
    return Answer(values, [*table(["name", "version", "what", "why"], rows), last])
