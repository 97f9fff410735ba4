"""The registry's commands that only read: list, show, log, diff, lineage, verify."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from tasks.core.errors import PipelineError, RegistryError
from tasks.registry.cli.diff import PARTS, compare
from tasks.registry.cli.output import Answer, find, find_word, rate, registry_of, store_of, table
from tasks.registry.gate.gate import Decision
from tasks.registry.log.entries import Event
from tasks.registry.log.history import History
from tasks.registry.log.names import Address, short
from tasks.registry.stores.store import in_parallel
from tasks.registry.versions.manifest import DECISION, LINEAGE
from tasks.registry.versions.registry import Registry, names_in


def list_versions(args: Namespace) -> Answer:
    """List every version of one name, or of all."""
    store = store_of(args)
    chosen = [Address.parse(args.name).name] if args.name else names_in(store)
    rows = [row for name in chosen for row in version_rows(registry_of(store, name))]
    shown = [
        [
            f"{row['name']}@v{row['serial']}" if row["serial"] else f"{row['name']}@{short(row['digest'])}",
            short(row["digest"]),
            ",".join(row["aliases"] + (["(deprecated)"] if row["deprecated"] else [])) or "-",
            rate(row["win_rate"]),
            rate(row["lower_bound"]),
            row["when"] or "registration cut short",
        ]
        for row in rows
    ]
    return Answer(rows, table(["version", "digest", "aliases", "win rate", "lower bound", "when"], shown))


def show(args: Namespace) -> Answer:
    """Show one version: what it is, where it comes from, and what the gate said."""
    registry, digest = find(args)
    version, row = registry.read(digest), next(row for row in version_rows(registry) if row["digest"] == digest)
    decision = json.loads(registry.read_file(digest, DECISION))
    lineage = json.loads(registry.read_file(digest, LINEAGE))

    git, base, data = lineage["git"], lineage["base"], lineage["data"]
    dirty = " (with changes not committed)" if git.get("dirty") else ""
    pairs = ", ".join(f"{count} {split}" for split, count in (data.get("pairs_used") or {}).items())
    size = sum(file.size for file in version.files.values())
    lines = [
        f"{registry.name} v{row['serial'] or '?'}  {digest}",
        f"aliases      {', '.join(row['aliases']) or '-'}",
        *([f"deprecated   {row['deprecated']}"] if row["deprecated"] else []),
        f"registered   {row['when'] or 'cut short'} by {row['by'] or '?'}",
        f"win rate     {rate(row['win_rate'])}, lower bound {rate(row['lower_bound'])}",
        f"gate         {decision['outcome']}",
        *(f"             - {reason}" for reason in decision["reasons"]),
        f"base         {base['source']} {base['revision'] or ''} ({short(base['digest'])})",
        f"data         {short(data['digest'])} {pairs}",
        f"git          {git.get('commit') or 'unknown'}{dirty}",
        f"files        {len(version.files)}, {size:,} bytes",
        *(f"             {file.sha256[:12]} {file.size:>11,}  {name}" for name, file in version.files.items()),
    ]
    return Answer({**row, **version.as_json(), "decision": decision, "lineage": lineage}, lines)


def show_log(args: Namespace) -> Answer:
    """Show what happened to one name, oldest first."""
    registry = registry_of(store_of(args), Address.parse(args.name).name)
    entries = registry.log.entries()
    rows = [
        [str(entry.number), entry.when, entry.by, entry.event.action, short(entry.event.version), _detail(entry.event)]
        for entry in entries
    ]
    return Answer(
        [entry.as_json() for entry in entries], table(["no", "when", "by", "what", "version", "detail"], rows)
    )


def diff(args: Namespace) -> Answer:
    """Show how two versions differ: params, data and metrics."""
    differences = compare(find_word(args, args.one), find_word(args, args.other))
    lines = []
    for part in PARTS:
        rows = [[key, _shown(one), _shown(other)] for key, (one, other) in differences[part].items()]
        lines += table([part, args.one, args.other], rows) if rows else [f"{part}: the same"]
    return Answer(differences, lines)


def lineage(args: Namespace) -> Answer:
    """Show a version's data, base, parent and what was trained from it, or the versions trained on some data."""
    store = store_of(args)
    rows = [row for name in names_in(store) for row in _origins(registry_of(store, name))]
    if args.data:
        chosen = [row for row in rows if row["data"].startswith(args.data)]
        if not chosen:
            known = ", ".join(sorted({short(row["data"]) for row in rows}))
            raise RegistryError(f"no version was trained on the data {args.data!r}", f"data there: {known}")
    else:
        _, digest = find(args)
        chosen = _family(rows, digest)

    shown = [
        [
            f"{row['name']}@v{row['serial']}",
            short(row["digest"]),
            short(row["data"]),
            row["parent"] or "-",
            row["git"],
            row["base"],
        ]
        for row in chosen
    ]
    return Answer(chosen, table(["version", "digest", "data", "trained from", "git", "base"], shown))


def verify(args: Namespace) -> Answer:
    """Read every byte of one version, of one name's versions and log, or of all."""
    store = store_of(args)
    address = Address.parse(args.version) if args.version else None
    checks: list[dict[str, Any]] = []
    for name in [address.name] if address else names_in(store):
        registry = registry_of(store, name)
        if address and address.selector:
            checks.append(_check(registry, registry.find(address.selector)))
            continue
        checks.append(_check_log(registry))
        digests = [] if checks[-1]["fault"] else registry.digests()  # without a log nobody can say what there is
        checks += [_check(registry, digest) for digest in digests]
    lines = [
        f"{'ok     ' if not c['fault'] else 'DAMAGED'} {c['name']} {short(c['digest'] or 'log'):12}  {c['said']}"
        for c in checks
    ]
    return Answer(checks, lines or ["no versions"], int(any(check["fault"] for check in checks)))


def _origins(registry: Registry) -> list[dict[str, Any]]:
    """Return where each version of a name comes from."""
    history = registry.history()
    serials, digests = history.serials(), history.kept()
    lineages = in_parallel(registry.store, lambda digest: json.loads(registry.read_file(digest, LINEAGE)), digests)
    return [
        _origin(registry.name, digest, serials[digest], lineage)
        for digest, lineage in zip(digests, lineages, strict=True)
    ]


def _origin(name: str, digest: str, serial: int, lineage: dict[str, Any]) -> dict[str, Any]:
    parent = lineage.get("parent") or {}
    base, data, git = lineage["base"], lineage["data"], lineage["git"]
    return {
        "name": name,
        "digest": digest,
        "serial": serial,
        "data": data["digest"],
        "pairs": data.get("pairs_used"),
        "parent": parent.get("folder") or (f"{parent['name']}@{short(parent['digest'])}" if parent else None),
        "parent_digest": parent.get("digest"),
        "git": (git.get("commit") or "unknown")[:12] + ("+" if git.get("dirty") else ""),
        "base": f"{base['source']}@{base['revision']}" if base.get("revision") else base["source"],
    }


def _family(rows: list[dict[str, Any]], digest: str) -> list[dict[str, Any]]:
    """Return the row of a version, of those it was trained from and of those trained from it, in the order of rows."""
    parents = {row["digest"]: row["parent_digest"] for row in rows}
    family, ancestor = {digest}, parents.get(digest)
    while ancestor and ancestor not in family:
        family.add(ancestor)
        ancestor = parents.get(ancestor)

    children = {digest}
    while children := {row["digest"] for row in rows if row["parent_digest"] in children} - family:
        family |= children
    return [row for row in rows if row["digest"] in family]


def _shown(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def version_rows(registry: Registry) -> list[dict[str, Any]]:
    """Return a row for each version; the numbers are those of the decision in the log entry of its registration."""
    history = registry.history()
    return [_row(registry.name, digest, history) for digest in registry.digests()]


def _row(name: str, digest: str, history: History) -> dict[str, Any]:
    entry = history.registered.get(digest)
    deprecation = history.deprecated.get(digest)
    recorded = entry.event.decision if entry else None
    numbers = Decision.from_json(recorded).numbers if recorded else {}
    return {
        "name": name,
        "digest": digest,
        "serial": history.serials().get(digest),
        "aliases": [alias for alias, target in history.aliases().items() if target == digest],
        "deprecated": deprecation.event.reason if deprecation else None,
        "win_rate": numbers.get("win_rate"),
        "lower_bound": numbers.get("lower_bound"),
        "outcome": recorded["outcome"] if recorded else None,
        "when": entry.when if entry else None,
        "by": entry.by if entry else None,
    }


def _check(registry: Registry, digest: str) -> dict[str, Any]:
    def read() -> str:
        version = registry.check(digest)
        return f"{len(version.files)} files, {sum(file.size for file in version.files.values()):,} bytes"

    return _checked(registry, digest, read)


def _check_log(registry: Registry) -> dict[str, Any]:
    return _checked(registry, None, lambda: f"{registry.log.check().count} entries")


def _checked(registry: Registry, digest: str | None, read: Callable[[], str]) -> dict[str, Any]:
    """Do one check; an error is part of its result."""
    fault: PipelineError | None = None
    try:
        said = read()
    except PipelineError as error:
        fault, said = error, str(error)
    return {"name": registry.name, "digest": digest, "fault": None if fault is None else str(fault), "said": said}


def _detail(event: Event) -> str:
    """Return what is particular to an event, in a few args."""
    if event.alias is None:
        return f"gate: {event.decision['outcome']}" if event.decision else ""
    move = f"{event.alias}: {short(event.previous) if event.previous else 'nothing'} -> {short(event.version)}"
    authority = f", by {event.authority}" if event.authority else ""
    return f"{move}{authority}{f', because: {event.reason}' if event.reason else ''}"
