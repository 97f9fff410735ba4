"""The registry's commands that only read: list, show, log, diff, lineage, verify, decide."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from tasks.core.errors import ConfigError, PipelineError, RegistryError
from tasks.core.params import build
from tasks.registry.cli.diff import PARTS, compare
from tasks.registry.cli.output import Answer, find, named_store, params_section, registry_of, store_of, table
from tasks.registry.cli.papers import judge_lines
from tasks.registry.gate.gate import FAILED, INCONCLUSIVE, PASSED, Decision, GateConfig
from tasks.registry.log.evidence import METRICS
from tasks.registry.log.names import DEFAULT_ALIAS, Address, short
from tasks.registry.release import candidate, release
from tasks.registry.stores.store import in_parallel
from tasks.registry.versions.manifest import DECISION, EVIDENCE, LINEAGE
from tasks.registry.versions.registry import Registry, names_in


def list_versions(args: Namespace) -> Answer:
    """List every version of one name, or of all."""
    store = store_of(args)
    chosen = [Address.parse(args.name).name] if args.name else names_in(store)
    rows = [row for name in chosen for row in version_rows(registry_of(store, name))]
    shown = []
    for row in rows:
        digest, marks = short(row["digest"]), row["aliases"] + (["(deprecated)"] if row["deprecated"] else [])
        marks += [] if row["believed"] else ["(not to be believed)"]
        version = f"{row['name']}@v{row['serial']}" if row["serial"] else f"{row['name']}@{digest}"
        rates = [_rate(row["win_rate"]), _rate(row["lower_bound"])]
        shown.append([version, digest, ",".join(marks) or "-", *rates, row["when"] or "registration cut short"])
    return Answer(rows, table(["version", "digest", "aliases", "win rate", "lower bound", "when"], shown))


def show(args: Namespace) -> Answer:
    """Show one version: what it is, where it comes from, and what the gate said."""
    registry, digest = find(args)
    version, row = registry.read(digest), next(row for row in version_rows(registry) if row["digest"] == digest)
    decision = json.loads(registry.read_file(digest, DECISION))
    lineage = json.loads(registry.read_file(digest, LINEAGE))
    metrics = json.loads(registry.read_file(digest, EVIDENCE + METRICS))

    git, base, data = lineage["git"], lineage["base"], lineage["data"]
    dirty = " (with changes not committed)" if git.get("dirty") else ""
    pairs = ", ".join(f"{count} {split}" for split, count in (data.get("pairs_used") or {}).items())
    size = sum(file.size for file in version.files.values())
    lines = [
        f"{registry.name} v{row['serial'] or '?'}  {digest}",
        f"aliases      {', '.join(row['aliases']) or '-'}",
        *([f"deprecated   {row['deprecated']}"] if row["deprecated"] else []),
        f"registered   {row['when'] or 'cut short'} by {row['by'] or '?'}",
        f"win rate     {_rate(row['win_rate'])}, lower bound {_rate(row['lower_bound'])}",
        *judge_lines(metrics),
        f"gate         {decision['outcome']}; {Decision.from_json(decision).looks()}",
        *(f"             - {reason}" for reason in decision["reasons"]),
        f"base         {base['source']} {base['revision'] or ''} ({short(base['digest'])})",
        f"data         {short(data['digest'])} {pairs}",
        f"git          {git.get('commit') or 'unknown'}{dirty}",
        f"files        {len(version.files)}, {size:,} bytes",
        *(f"             {file.sha256[:12]} {file.size:>11,}  {name}" for name, file in version.files.items()),
    ]
    judge = {"qualification": metrics.get("qualification"), "guards": metrics.get("guards")}
    return Answer({**row, **version.as_json(), "decision": decision, "lineage": lineage, "judge": judge}, lines)


def show_log(args: Namespace) -> Answer:
    """Show what happened to one name, oldest first."""
    registry = registry_of(store_of(args), Address.parse(args.name).name)
    entries, rows = registry.log.entries(), []
    for entry in entries:
        event = entry.event
        detail = f"gate: {event.decision['outcome']}" if event.decision else ""
        if event.alias:
            detail = f"{event.alias}: {short(event.previous or '') or 'nothing'} -> {short(event.version)}"
            detail += f", by {event.authority}" if event.authority else ""
            detail += f", because: {event.reason}" if event.reason else ""
        rows.append([str(entry.number), entry.when, entry.by, event.action, short(event.version), detail])
    values = [entry.as_json() for entry in entries]
    return Answer(values, table(["no", "when", "by", "what", "version", "detail"], rows))


def diff(args: Namespace) -> Answer:
    """Show how two versions differ: params, data and metrics."""
    differences = compare(find(args, args.one), find(args, args.other))
    lines = []
    for part in PARTS:
        rows = [[key, *map(_shown, values)] for key, values in differences[part].items()]
        lines += table([part, args.one, args.other], rows) if rows else [f"{part}: the same"]
    return Answer(differences, lines)


def _shown(value: Any) -> str:
    text = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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

    shown = []
    for row in chosen:
        version = [f"{row['name']}@v{row['serial']}", short(row["digest"]), short(row["data"])]
        shown.append([*version, row["parent"] or "-", row["git"], row["base"]])
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
        checks.append(_check(registry, None))
        digests = [] if checks[-1]["fault"] else registry.digests()  # without a log nobody can say what there is
        checks += [_check(registry, digest) for digest in digests]

    lines = [
        f"{'ok     ' if not c['fault'] else 'DAMAGED'} {c['name']} {short(c['digest'] or 'log'):12}  {c['said']}"
        for c in checks
    ]
    return Answer(checks, lines or ["no versions"], int(any(check["fault"] for check in checks)))


def decide(args: Namespace) -> Answer:
    """Show what the gate says to the results in this checkout, without registering them."""
    section = params_section()
    name = args.name or section.get("name")
    if not name:
        raise ConfigError("no name is given and params.yaml has no `register.name`", "give the name")
    registry = Registry(named_store(args), Address.parse(name).name)
    alias = args.alias or section.get("alias", DEFAULT_ALIAS)
    gate = build(GateConfig, section.get("gate", {}), "register.gate")

    identity, evidence = candidate.identify(candidate.Sources())
    decision = release.weigh(registry, registry.history(), evidence, alias, gate)
    lines = [f"{decision.outcome}: {registry.name} {short(identity.digest)} for `{alias}`"]
    lines += [f"  - {reason}" for reason in decision.reasons]
    lines += [f"  {decision.looks()}; asking spends none"]
    status = {PASSED: 0, FAILED: 3, INCONCLUSIVE: 4}[decision.outcome]
    values = {"digest": identity.digest, **decision.as_json(), "looks_spent": decision.attempt - 1}
    return Answer(values, lines, status)


def version_rows(registry: Registry) -> list[dict[str, Any]]:
    """Return a row for each version; the numbers are those of the decision in the log entry of its registration."""
    history, digests = registry.history(), registry.digests()
    serials, aliases = history.serials(), history.aliases()

    rows = []
    for digest in digests:
        entry, deprecation = history.registered.get(digest), history.deprecated.get(digest)
        decision = (entry.event.decision if entry else None) or {}
        numbers = Decision.from_json(decision).numbers if decision else {}
        row = {
            "name": registry.name,
            "digest": digest,
            "serial": serials.get(digest),
            "aliases": [alias for alias, target in aliases.items() if target == digest],
            "deprecated": deprecation.event.reason if deprecation else None,
            "win_rate": numbers.get("win_rate"),
            "lower_bound": numbers.get("lower_bound"),
            "believed": not numbers or numbers.get("guards_failed") == 0,
            "outcome": decision.get("outcome"),
            "when": entry.when if entry else None,
            "by": entry.by if entry else None,
        }
        rows.append(row)
    return rows


def _origins(registry: Registry) -> list[dict[str, Any]]:
    """Return a row for each version of a name that says where it comes from."""
    history = registry.history()
    serials, digests = history.serials(), history.kept()
    lineages = in_parallel(registry.store, lambda digest: json.loads(registry.read_file(digest, LINEAGE)), digests)

    rows = []
    for digest, lineage in zip(digests, lineages, strict=True):
        parent = lineage.get("parent") or {}
        base, data, git = lineage["base"], lineage["data"], lineage["git"]
        row = {
            "name": registry.name,
            "digest": digest,
            "serial": serials[digest],
            "data": data["digest"],
            "pairs": data.get("pairs_used"),
            "parent": parent.get("folder") or (f"{parent['name']}@{short(parent['digest'])}" if parent else None),
            "parent_digest": parent.get("digest"),
            "git": (git.get("commit") or "unknown")[:12] + ("+" if git.get("dirty") else ""),
            "base": f"{base['source']}@{base['revision']}" if base.get("revision") else base["source"],
        }
        rows.append(row)
    return rows


def _family(rows: list[dict[str, Any]], digest: str) -> list[dict[str, Any]]:
    """Return the rows of a version, of its ancestors and of its descendants, in the order of ``rows``."""
    parents = {row["digest"]: row["parent_digest"] for row in rows}
    family, ancestor = {digest}, parents.get(digest)
    while ancestor and ancestor not in family:
        family.add(ancestor)
        ancestor = parents.get(ancestor)

    children = {digest}
    while children := {row["digest"] for row in rows if row["parent_digest"] in children} - family:
        family |= children
    return [row for row in rows if row["digest"] in family]


def _check(registry: Registry, digest: str | None) -> dict[str, Any]:
    """Check a version, or the log without a digest; an error is part of the result."""
    fault = None
    try:
        if digest is None:
            said = f"{len(registry.log.check().entries)} entries"
        else:
            files = registry.check(digest).files.values()
            said = f"{len(files)} files, {sum(file.size for file in files):,} bytes"
    except PipelineError as error:
        fault = said = str(error)
    return {"name": registry.name, "digest": digest, "fault": fault, "said": said}


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
