"""The registry's commands by name: each takes the parsed arguments and returns its answer.

An answer has plain values for `--json`, lines for people, and an exit status.
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
from tasks.registry.gate.gate import FAILED, INCONCLUSIVE, PASSED, GateConfig
from tasks.registry.log.names import DEFAULT_ALIAS, Address, short
from tasks.registry.release import candidate, release
from tasks.registry.versions import pinned
from tasks.registry.versions.manifest import WEIGHTS
from tasks.registry.versions.pinned import PREFIX
from tasks.registry.versions.registry import Registry, UnknownVersion

STATUS = {PASSED: 0, FAILED: 3, INCONCLUSIVE: 4}  # of `decide`


def pull(args: Namespace) -> Answer:
    """Copy a version, verified, into a folder of its own."""
    registry, digest = find(args)
    target = Path(args.to)
    registry.pull(digest, target)
    lines = [f"{registry.name} {short(digest)} is in {target}: PeftModel.from_pretrained(base, {str(target)!r})"]
    return Answer({"name": registry.name, "digest": digest, "folder": str(target)}, lines)


def pin(args: Namespace) -> Answer:
    """Write the digest that a name stands for now into params.yaml, as the champion to beat or the initial adapter."""
    value: str | None = None
    try:
        registry, digest = find(args)
        value = f"{PREFIX}{registry.name}@{digest}"
        if args.unless_same and _holds(Path(args.unless_same), registry, digest):
            values = {"key": args.key, "value": None, "changed": False}
            return Answer(values, [f"{args.unless_same} is {registry.name} {short(digest)} itself: nothing is pinned"])
    except UnknownVersion:
        if not args.or_none:
            raise

    is_changed = pinned.pin(paths.PARAMS, args.key, value)
    verb = "is" if is_changed else "was already"
    return Answer({"key": args.key, "value": value, "changed": is_changed}, [f"{args.key} {verb} {value or 'null'}"])


def resolve(args: Namespace) -> Answer:
    """Print the whole digest that a name stands for now; a digest never stands for another version."""
    try:
        registry, digest = find(args)
    except UnknownVersion:
        if not args.or_none:
            raise
        return Answer({"version": None}, ["nothing yet"])
    version = f"{registry.name}@{digest}"
    return Answer({"version": version}, [version])


def _holds(folder: Path, registry: Registry, digest: str) -> bool:
    """Tell whether the adapter in ``folder`` is that of a version."""
    path = folder / WEIGHTS
    return path.is_file() and sha256_file(path) == registry.read(digest).identity.weights


def export_hub(args: Namespace) -> Answer:
    """Upload a version to a model repository on the Hub."""
    from tasks.registry.cli import export

    registry, digest = find(args)
    commit = export.to_hub(registry, digest, args.repository, args.private)
    values = {"name": registry.name, "digest": digest, "repository": args.repository, "commit": commit}
    return Answer(values, [f"{registry.name} {short(digest)} is in {args.repository}: {commit}"])


def export_merged(args: Namespace) -> Answer:
    """Write a checkpoint of the base with a version's adapter merged into its weights."""
    from tasks.registry.cli import export

    registry, digest = find(args)
    base, target = Path(args.base or paths.BASE), Path(args.to)
    export.merged(registry, digest, base, target)
    lines = [f"{registry.name} {short(digest)} is merged in {target}: AutoModelForCausalLM.from_pretrained('{target}')"]
    return Answer({"name": registry.name, "digest": digest, "folder": str(target)}, lines)


def export_vllm(args: Namespace) -> Answer:
    """Pull a version and print the command with which vLLM serves it."""
    from tasks.registry.cli import export

    registry, digest = find(args)
    target = Path(args.to)
    line = export.vllm_line(registry, digest, target.absolute())
    registry.pull(digest, target)
    return Answer({"name": registry.name, "digest": digest, "folder": str(target), "command": line}, [line])


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
