"""The registry's commands: each takes the parsed words and returns what to say.

A command answers with plain values for `--json`, with lines for people, and with an exit status.
"""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.core import paths
from tasks.core.errors import ConfigError, PipelineError, RegistryError
from tasks.core.params import build, load_params
from tasks.registry import collect, release
from tasks.registry.entry import DECISION, LINEAGE, to_json
from tasks.registry.gate import INCONCLUSIVE, KEEP, PROMOTE, Decision, GateConfig
from tasks.registry.history import History, LogEntry, entries_to_json
from tasks.registry.names import CHAMPION, Address, short
from tasks.registry.registry import Registry, names_in
from tasks.registry.store import Store, open_store

DEFAULT_ROOT = "models/registry"
STATUS = {PROMOTE: 0, KEEP: 3, INCONCLUSIVE: 4}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command found: values for a machine, lines for a person, and the exit status."""

    values: Any
    lines: Sequence[str]
    status: int = 0


def list_versions(words: Namespace) -> Answer:
    """List every version of one name, or of all."""
    store = _store(words)
    chosen = [Address.parse(words.name).name] if words.name else names_in(store)
    rows = [row for name in chosen for row in _rows(_registry(store, name))]
    table = [
        [
            f"{row['name']}@v{row['serial']}" if row["serial"] else f"{row['name']}@{short(row['digest'])}",
            short(row["digest"]),
            ",".join(row["aliases"]) or "-",
            _rate(row["win_rate"]),
            _rate(row["lower_bound"]),
            row["when"] or "registration cut short",
        ]
        for row in rows
    ]
    return Answer(rows, _table(["version", "digest", "aliases", "win rate", "lower bound", "when"], table))


def show(words: Namespace) -> Answer:
    """Show one version: what it is, where it comes from, and what the gate said."""
    registry, digest = _find(words)
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
        f"registered   {row['when'] or 'cut short'} by {row['by'] or '?'}",
        f"win rate     {_rate(row['win_rate'])}, lower bound {_rate(row['lower_bound'])}",
        f"gate         {decision['outcome']}",
        *(f"             - {reason}" for reason in decision["reasons"]),
        f"base         {base['source']} {base['revision'] or ''} ({short(base['digest'])})",
        f"data         {short(data['digest'])} {pairs}",
        f"git          {git.get('commit') or 'unknown'}{dirty}",
        f"files        {len(version.files)}, {size:,} bytes",
        *(f"             {entry.sha256[:12]} {entry.size:>11,}  {name}" for name, entry in version.files.items()),
    ]
    return Answer({**row, **to_json(version), "decision": decision, "lineage": lineage}, lines)


def verify(words: Namespace) -> Answer:
    """Read every byte of one version, of one name's versions, or of all."""
    store = _store(words)
    address = Address.parse(words.version) if words.version else None
    checks: list[dict[str, Any]] = []
    for name in [address.name] if address else names_in(store):
        registry = _registry(store, name)
        chosen = [registry.find(address.selector)] if address and address.selector else registry.digests()
        checks += [_check(registry, digest) for digest in chosen]
    lines = [
        f"{'ok     ' if not c['fault'] else 'DAMAGED'} {c['name']} {short(c['digest'])}  {c['said']}" for c in checks
    ]
    return Answer(checks, lines or ["no versions"], int(any(check["fault"] for check in checks)))


def pull(words: Namespace) -> Answer:
    """Copy a version, verified, into a folder of its own."""
    registry, digest = _find(words)
    target = Path(words.to)
    registry.pull(digest, target)
    lines = [f"{registry.name} {short(digest)} is in {target}: PeftModel.from_pretrained(base, {str(target)!r})"]
    return Answer({"name": registry.name, "digest": digest, "folder": str(target)}, lines)


def show_log(words: Namespace) -> Answer:
    """Show what happened to one name, oldest first."""
    registry = _registry(_store(words), Address.parse(words.name).name)
    entries = registry.history().entries
    rows = [
        [str(entry.number), entry.when, entry.by, entry.deed.action, short(entry.deed.version), _detail(entry)]
        for entry in entries
    ]
    return Answer(entries_to_json(entries), _table(["no", "when", "by", "what", "version", "detail"], rows))


def promote(words: Namespace) -> Answer:
    """Move an alias to a version, by the gate or by a person's word."""
    if words.override is not None and not words.override.strip():
        raise RegistryError("--override without a reason", 'say why: --override "..."; the log keeps it')
    registry, digest = _find(words)
    is_moved = release.promote(registry, digest, words.alias, words.override)
    said = "now names" if is_moved else "named already, and still names,"
    values = {"name": registry.name, "alias": words.alias, "digest": digest, "moved": is_moved}
    return Answer(values, [f"{registry.name}@{words.alias} {said} {short(digest)}"])


def rollback(words: Namespace) -> Answer:
    """Move an alias back to the version that it named before."""
    registry = _registry(_store(words), Address.parse(words.name).name)
    left, reached = release.rollback(registry, words.alias, words.reason)
    lines = [f"{registry.name}@{words.alias} now names {short(reached)} again, no longer {short(left)}"]
    return Answer({"name": registry.name, "alias": words.alias, "digest": reached, "previous": left}, lines)


def decide(words: Namespace) -> Answer:
    """Show what the gate says to the results that lie in this checkout, without registering them."""
    section = _params_section()
    name = words.name or section.get("name")
    if not name:
        raise ConfigError("no name is given and params.yaml has no `register.name`", "give the name")
    registry = Registry(open_store(words.root or section.get("root", DEFAULT_ROOT)), Address.parse(name).name)
    alias = words.alias or section.get("alias", CHAMPION)
    gate = build(GateConfig, section.get("gate", {}), "register.gate")
    identity, evidence = collect.identify(collect.Sources())
    decision = release.weigh(registry, registry.history(), evidence, alias, gate)
    lines = [f"{decision.outcome}: {registry.name} {short(identity.digest)} for `{alias}`"]
    lines += [f"  - {reason}" for reason in decision.reasons]
    return Answer({"digest": identity.digest, **decision.as_json()}, lines, STATUS[decision.outcome])


COMMANDS: dict[str, Callable[[Namespace], Answer]] = {
    "list": list_versions,
    "show": show,
    "verify": verify,
    "pull": pull,
    "log": show_log,
    "promote": promote,
    "rollback": rollback,
    "decide": decide,
}


def _params_section() -> dict[str, Any]:
    """Return params.yaml's `register` section, empty where there is no such file or section."""
    if not paths.PARAMS.is_file():
        return {}
    section = load_params(paths.PARAMS).get("register")
    return section if isinstance(section, dict) else {}


def _store(words: Namespace) -> Store:
    """Open the registry that `--root` or params.yaml names; it must be there.

    Raises:
        RegistryError: Nothing was ever registered there.
    """
    root = words.root or str(_params_section().get("root", DEFAULT_ROOT))
    store = open_store(root)
    if not names_in(store):
        raise RegistryError(f"there is no registry in {root}", "register first: `dvc repro register`, or give --root")
    return store


def _registry(store: Store, name: str) -> Registry:
    """Open one name's registry; an unknown name is refused with those that are near."""
    registry = Registry(store, name)
    if name not in names_in(store):
        registry.refuse_unknown()
    return registry


def _find(words: Namespace) -> tuple[Registry, str]:
    address = Address.parse(words.version)
    registry = _registry(_store(words), address.name)
    return registry, registry.find(address.selector)


def _rows(registry: Registry) -> list[dict[str, Any]]:
    """Return a row a version; the numbers are those of the decision that its registration logged."""
    history = registry.history()
    return [_row(registry.name, digest, history) for digest in registry.digests()]


def _row(name: str, digest: str, history: History) -> dict[str, Any]:
    entry = history.registered.get(digest)
    recorded = entry.deed.decision if entry else None
    numbers = Decision.from_json(recorded).numbers if recorded else {}
    return {
        "name": name,
        "digest": digest,
        "serial": history.serials().get(digest),
        "aliases": [alias for alias, holder in history.aliases().items() if holder == digest],
        "win_rate": numbers.get("win_rate"),
        "lower_bound": numbers.get("lower_bound"),
        "outcome": recorded["outcome"] if recorded else None,
        "when": entry.when if entry else None,
        "by": entry.by if entry else None,
    }


def _check(registry: Registry, digest: str) -> dict[str, Any]:
    fault: PipelineError | None = None
    try:
        version = registry.check(digest)
        said = f"{len(version.files)} files, {sum(entry.size for entry in version.files.values()):,} bytes"
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


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table with aligned columns."""
    everything = [list(head), *map(list, rows)]
    widths = [max(len(row[column]) for row in everything) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in everything
    ]
