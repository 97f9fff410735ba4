"""The registry's commands by name: each takes the parsed words and returns what to say.

A command answers with plain values for `--json`, with lines for people, and with an exit status.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from tasks.core import paths
from tasks.core.errors import ConfigError
from tasks.core.files import sha256_file
from tasks.core.params import build
from tasks.registry.cli import change, look
from tasks.registry.cli.output import Answer, find, named_store, params_section
from tasks.registry.gate.gate import INCONCLUSIVE, KEEP, PROMOTE, GateConfig
from tasks.registry.log.names import CHAMPION, Address, short
from tasks.registry.release import candidate, release
from tasks.registry.versions import pinned
from tasks.registry.versions.manifest import WEIGHTS
from tasks.registry.versions.pinned import PREFIX
from tasks.registry.versions.registry import Registry, UnknownVersion

STATUS = {PROMOTE: 0, KEEP: 3, INCONCLUSIVE: 4}


def pull(words: Namespace) -> Answer:
    """Copy a version, verified, into a folder of its own."""
    registry, digest = find(words)
    target = Path(words.to)
    registry.pull(digest, target)
    lines = [f"{registry.name} {short(digest)} is in {target}: PeftModel.from_pretrained(base, {str(target)!r})"]
    return Answer({"name": registry.name, "digest": digest, "folder": str(target)}, lines)


def pin(words: Namespace) -> Answer:
    """Write the digest that a name means now into params.yaml, as the champion to beat or the adapter to go on from."""
    word: str | None = None
    try:
        registry, digest = find(words)
        word = f"{PREFIX}{registry.name}@{digest}"
        if words.unless_same and _holds(Path(words.unless_same), registry, digest):
            told = {"key": words.key, "value": None, "changed": False}
            return Answer(told, [f"{words.unless_same} is {registry.name} {short(digest)} itself: nothing is pinned"])
    except UnknownVersion:
        if not words.or_none:
            raise
    is_changed = pinned.pin(paths.PARAMS, words.key, word)
    said = "is" if is_changed else "was already"
    return Answer({"key": words.key, "value": word, "changed": is_changed}, [f"{words.key} {said} {word or 'null'}"])


def resolve(words: Namespace) -> Answer:
    """Say the whole digest that a name means now; it never means another one."""
    try:
        registry, digest = find(words)
    except UnknownVersion:
        if not words.or_none:
            raise
        return Answer({"version": None}, ["nothing yet"])
    version = f"{registry.name}@{digest}"
    return Answer({"version": version}, [version])


def _holds(folder: Path, registry: Registry, digest: str) -> bool:
    """Tell whether the adapter in ``folder`` is that of a version."""
    path = folder / WEIGHTS
    return path.is_file() and sha256_file(path) == registry.read(digest).identity.weights


def export_hub(words: Namespace) -> Answer:
    """Upload a version to a model repository on the Hub."""
    from tasks.registry.cli import export

    registry, digest = find(words)
    address = export.to_hub(registry, digest, words.repository, words.private)
    told = {"name": registry.name, "digest": digest, "repository": words.repository, "commit": address}
    return Answer(told, [f"{registry.name} {short(digest)} is in {words.repository}: {address}"])


def export_merged(words: Namespace) -> Answer:
    """Write a checkpoint of the base with a version's adapter merged into its weights."""
    from tasks.registry.cli import export

    registry, digest = find(words)
    base, target = Path(words.base or paths.BASE), Path(words.to)
    export.merged(registry, digest, base, target)
    lines = [f"{registry.name} {short(digest)} is merged in {target}: AutoModelForCausalLM.from_pretrained('{target}')"]
    return Answer({"name": registry.name, "digest": digest, "folder": str(target)}, lines)


def export_vllm(words: Namespace) -> Answer:
    """Pull a version and show the command by which vLLM serves it."""
    from tasks.registry.cli import export

    registry, digest = find(words)
    target = Path(words.to)
    line = export.vllm_line(registry, digest, target.absolute())
    registry.pull(digest, target)
    return Answer({"name": registry.name, "digest": digest, "folder": str(target), "command": line}, [line])


def decide(words: Namespace) -> Answer:
    """Show what the gate says to the results that lie in this checkout, without registering them."""
    section = params_section()
    name = words.name or section.get("name")
    if not name:
        raise ConfigError("no name is given and params.yaml has no `register.name`", "give the name")
    registry = Registry(named_store(words), Address.parse(name).name)
    alias = words.alias or section.get("alias", CHAMPION)
    gate = build(GateConfig, section.get("gate", {}), "register.gate")
    identity, evidence = candidate.identify(candidate.Sources())
    decision = release.weigh(registry, registry.history(), evidence, alias, gate)
    lines = [f"{decision.outcome}: {registry.name} {short(identity.digest)} for `{alias}`"]
    lines += [f"  - {reason}" for reason in decision.reasons]
    return Answer({"digest": identity.digest, **decision.as_json()}, lines, STATUS[decision.outcome])


COMMANDS: dict[str, Callable[[Namespace], Answer]] = {
    "list": look.list_versions,
    "show": look.show,
    "log": look.show_log,
    "diff": look.diff,
    "lineage": look.lineage,
    "verify": look.verify,
    "pull": pull,
    "pin": pin,
    "resolve": resolve,
    "export-hub": export_hub,
    "export-merged": export_merged,
    "export-vllm": export_vllm,
    "promote": change.promote,
    "rollback": change.rollback,
    "deprecate": change.deprecate,
    "gc": change.gc,
    "decide": decide,
}
