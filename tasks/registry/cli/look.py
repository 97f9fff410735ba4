"""The registry's commands that look and change nothing: list, show, log, diff, lineage, verify."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from tasks.core.errors import PipelineError, RegistryError
from tasks.registry.cli.diff import compare
from tasks.registry.cli.output import Answer, find, find_word, rate, registry_of, store_of, table
from tasks.registry.gate.gate import Decision
from tasks.registry.log.entries import LogEntry
from tasks.registry.log.history import History
from tasks.registry.log.names import Address, short
from tasks.registry.log.registry_log import entries_to_json
from tasks.registry.stores.store import in_parallel
from tasks.registry.versions.manifest import DECISION, LINEAGE, to_json
from tasks.registry.versions.registry import Registry, names_in


def list_versions(words: Namespace) -> Answer:
    """List every version of one name, or of all."""
    store = store_of(words)
    chosen = [Address.parse(words.name).name] if words.name else names_in(store)
    rows = [row for name in chosen for row in _rows(registry_of(store, name))]
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


def show(words: Namespace) -> Answer:
    """Show one version: what it is, where it comes from, and what the gate said."""
    registry, digest = find(words)
    version, row = registry.read(digest), next(row for row in _rows(registry) if row["digest"] == digest)
    decision = json.loads(registry.read_file(digest, DECISION))
    lineage = json.loads(registry.read_file(digest, LINEAGE))
    git, base, data = lineage["git"], lineage["base"], lineage["data"]
    dirty = " (with changes not committed)" if git.get("dirty") else ""
    pairs = ", ".join(f"{count} {split}" for split, count in (data.get("pairs_used") or {}).items())
    size = sum(entry.size for entry in version.files.values())
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
        *(f"             {entry.sha256[:12]} {entry.size:>11,}  {name}" for name, entry in version.files.items()),
    ]
    return Answer({**row, **to_json(version), "decision": decision, "lineage": lineage}, lines)


def show_log(words: Namespace) -> Answer:
    """Show what happened to one name, oldest first."""
    registry = registry_of(store_of(words), Address.parse(words.name).name)
    entries = registry.log.entries()
    rows = [
        [str(entry.number), entry.when, entry.by, entry.deed.action, short(entry.deed.version), _detail(entry)]
        for entry in entries
    ]
    return Answer(entries_to_json(entries), table(["no", "when", "by", "what", "version", "detail"], rows))


def diff(words: Namespace) -> Answer:
    """Show what two versions do not share: params, data, numbers, and the norms of their weights."""
    found = compare(find_word(words, words.one), find_word(words, words.other))
    lines = []
    for part in ("identity", "params", "lineage", "metrics"):
        rows = [[key, _shown(one), _shown(other)] for key, (one, other) in found[part].items()]
        lines += table([part, words.one, words.other], rows) if rows else [f"{part}: the same"]
    norms = found["weights"]
    if norms is None:
        lines.append("weights: not comparable (other modules or shapes, or no plain LoRA)")
    else:
        shown = [f"{norms[side]:.4g}" for side in ("one", "other", "difference")]
        lines.append(f"weights: norm of the update {shown[0]} and {shown[1]}, of their difference {shown[2]}")
    return Answer(found, lines)


def lineage(words: Namespace) -> Answer:
    """Show from which data, base and parent a version comes and what was trained from it, or who used some data."""
    store = store_of(words)
    rows = [row for name in names_in(store) for row in _origins(registry_of(store, name))]
    if words.data:
        chosen = [row for row in rows if row["data"].startswith(words.data)]
        if not chosen:
            known = ", ".join(sorted({short(row["data"]) for row in rows}))
            raise RegistryError(f"no version was trained on the data {words.data!r}", f"data there: {known}")
    else:
        registry, digest = find(words)
        chosen = _family(rows, (registry.name, digest))
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


def verify(words: Namespace) -> Answer:
    """Read every byte of one version, of one name's versions and log, or of all."""
    store = store_of(words)
    address = Address.parse(words.version) if words.version else None
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
    read = in_parallel(registry.store, lambda digest: json.loads(registry.read_file(digest, LINEAGE)), digests)
    return [_origin(registry.name, digest, serials[digest], told) for digest, told in zip(digests, read, strict=True)]


def _origin(name: str, digest: str, serial: int, told: dict[str, Any]) -> dict[str, Any]:
    parent = told.get("parent") or {}
    base = told["base"]
    return {
        "name": name,
        "digest": digest,
        "serial": serial,
        "data": told["data"]["digest"],
        "pairs": told["data"].get("pairs_used"),
        "parent": parent.get("folder") or (f"{parent['name']}@{short(parent['digest'])}" if parent else None),
        "parent_digest": parent.get("digest"),
        "git": (told["git"].get("commit") or "unknown")[:12] + ("+" if told["git"].get("dirty") else ""),
        "base": f"{base['source']}@{base['revision']}" if base.get("revision") else base["source"],
    }


def _family(rows: list[dict[str, Any]], chosen: tuple[str, str]) -> list[dict[str, Any]]:
    """Return a version, those it was trained from and those trained from it, the oldest first."""
    by_digest = {row["digest"]: row for row in rows}
    wanted = {chosen[1]}
    row: dict[str, Any] | None = by_digest.get(chosen[1])
    while row and (parent := row["parent_digest"]) not in wanted and parent:
        wanted.add(parent)
        row = by_digest.get(parent)
    young = {chosen[1]}
    while young := {row["digest"] for row in rows if row["parent_digest"] in young} - wanted:
        wanted |= young
    return [row for row in rows if row["digest"] in wanted]


def _shown(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _rows(registry: Registry) -> list[dict[str, Any]]:
    """Return a row a version; the numbers are those of the decision that its registration logged."""
    history = registry.history()
    return [_row(registry.name, digest, history) for digest in registry.digests()]


def _row(name: str, digest: str, history: History) -> dict[str, Any]:
    entry = history.registered.get(digest)
    deprecation = history.deprecated.get(digest)
    recorded = entry.deed.decision if entry else None
    numbers = Decision.from_json(recorded).numbers if recorded else {}
    return {
        "name": name,
        "digest": digest,
        "serial": history.serials().get(digest),
        "aliases": [alias for alias, holder in history.aliases().items() if holder == digest],
        "deprecated": deprecation.deed.reason if deprecation else None,
        "win_rate": numbers.get("win_rate"),
        "lower_bound": numbers.get("lower_bound"),
        "outcome": recorded["outcome"] if recorded else None,
        "when": entry.when if entry else None,
        "by": entry.by if entry else None,
    }


def _check(registry: Registry, digest: str) -> dict[str, Any]:
    def read() -> str:
        version = registry.check(digest)
        return f"{len(version.files)} files, {sum(entry.size for entry in version.files.values()):,} bytes"

    return _checked(registry, digest, read)


def _check_log(registry: Registry) -> dict[str, Any]:
    return _checked(registry, None, lambda: f"{registry.log.check().count} entries")


def _checked(registry: Registry, digest: str | None, read: Callable[[], str]) -> dict[str, Any]:
    """Do one check; its fault is part of the answer."""
    fault: PipelineError | None = None
    try:
        said = read()
    except PipelineError as error:
        fault, said = error, str(error)
    return {"name": registry.name, "digest": digest, "fault": None if fault is None else str(fault), "said": said}


def _detail(entry: LogEntry) -> str:
    """Say in a few words what is particular to a log entry."""
    deed = entry.deed
    if deed.alias is None:
        return f"gate: {deed.decision['outcome']}" if deed.decision else ""
    moved = f"{deed.alias}: {short(deed.previous) if deed.previous else 'nothing'} -> {short(deed.version)}"
    by = f", by {deed.authority}" if deed.authority else ""
    return f"{moved}{by}{f', because: {deed.reason}' if deed.reason else ''}"
