"""The registry on the command line: list, compare, pull, promote, roll back, collect.

run as: python -m tasks.registry <command> [--root FOLDER or s3://BUCKET/PREFIX] [--json]

Exit status: 0 done, 1 refused or damaged, 2 wrong arguments; 3 if the gate refuses (`decide`, `promote`), 4 if the
evidence is inconclusive (`decide`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable

from tasks.core.errors import PipelineError
from tasks.core.files import explain_os_error
from tasks.registry.cli.commands import COMMANDS
from tasks.registry.log.names import DEFAULT_ALIAS
from tasks.registry.release.retention import DAYS

PINNED = ("respond.champion", "train.init_adapter")
Add = Callable[[str], argparse.ArgumentParser]  # adds a command's parser
_VERSION = "NAME@champion, NAME@v3, NAME@<8 or more digits of the digest>; NAME alone is NAME@champion"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the registry's commands."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--root",
        metavar="PLACE",
        help="the registry: a folder or s3://bucket/prefix (default: params.yaml, register.root)",
    )
    shared.add_argument("--json", action="store_true", help="answer in JSON on standard output")
    top = argparse.ArgumentParser(prog="python -m tasks.registry", description="What was released, and why.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str) -> argparse.ArgumentParser:
        doc = (COMMANDS[name].__doc__ or "").splitlines()[0]
        return commands.add_parser(name, parents=[shared], help=doc, description=doc)

    _add_reading(add)
    _add_taking(add)
    _add_changing(add)
    return top


def _add_reading(add: Add) -> None:
    """Add the commands that only read."""
    add("list").add_argument("name", nargs="?", metavar="NAME", help="only this name's versions")
    add("show").add_argument("version", metavar="VERSION", help=_VERSION)
    add("log").add_argument("name", metavar="NAME")
    diff = add("diff")
    diff.add_argument("one", metavar="A", help=_VERSION)
    diff.add_argument("other", metavar="B", help=_VERSION)
    lineage = add("lineage").add_mutually_exclusive_group(required=True)
    lineage.add_argument("version", nargs="?", metavar="VERSION", help=_VERSION)
    lineage.add_argument("--data", metavar="DIGEST", help="the versions trained on this data instead")
    add("verify").add_argument("version", nargs="?", metavar="VERSION", help="a version, or a NAME for all of its")
    decide = add("decide")
    decide.add_argument("name", nargs="?", metavar="NAME", help="default: params.yaml, register.name")
    decide.add_argument("--alias", help="the alias to decide about (default: params.yaml, register.alias)")


def _add_taking(add: Add) -> None:
    """Add the commands that take a version elsewhere: into a folder, to the Hub, into params.yaml."""
    pull, hub, merged, vllm = add("pull"), add("export-hub"), add("export-merged"), add("export-vllm")
    pin, resolve = add("pin"), add("resolve")
    pin.add_argument("key", metavar="KEY", choices=PINNED, help=" or ".join(PINNED))
    pin.add_argument("--unless-same", metavar="FOLDER", help="leave params.yaml if the adapter there is that version")
    for command in (pin, resolve):
        command.add_argument("--or-none", action="store_true", help="null if there is no such version yet, status 0")

    for command in (pull, hub, merged, vllm, pin, resolve):
        command.add_argument("version", metavar="VERSION", help=_VERSION)
    for command in (pull, merged, vllm):
        command.add_argument("to", metavar="FOLDER", help="a folder that is absent or empty")
    hub.add_argument("repository", metavar="OWNER/NAME", help="created if it is absent; the token is HF_TOKEN")
    hub.add_argument("--private", action="store_true", help="if the repository is created now")
    merged.add_argument("--base", metavar="FOLDER", help="output of the base stage (default: data/base)")


def _add_changing(add: Add) -> None:
    """Add the commands that write into the registry."""
    promote, rollback, deprecate, gc = add("promote"), add("rollback"), add("deprecate"), add("gc")
    for command in (promote, deprecate):
        command.add_argument("version", metavar="VERSION", help=_VERSION)
    rollback.add_argument("name", metavar="NAME")
    for command in (promote, rollback, deprecate):
        command.add_argument("--reason", metavar="WHY", help="kept in the log")
    for command in (promote, rollback):
        command.add_argument("--alias", default=DEFAULT_ALIAS, help=f"the alias to move (default: {DEFAULT_ALIAS})")

    promote.add_argument("--override", metavar="WHY", help="promote against the gate; the log keeps the reason")
    promote.add_argument("--tag", action="store_true", help="tag this checkout's HEAD for `dvc artifacts get` (GTO)")
    leaving = "only if it points to this version: champion, v3, digest"
    rollback.add_argument("--from", dest="left", metavar="VERSION", help=leaving)
    deprecate.add_argument("--undo", action="store_true", help="take a deprecation back")
    gc.add_argument("name", nargs="?", metavar="NAME", help="only this name's versions")
    gc.add_argument(
        "--days", type=float, default=DAYS, help=f"for how long an entry keeps its version (default: {DAYS})"
    )
    gc.add_argument("--apply", action="store_true", help="remove them; without this they are only shown")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; print its answer, or one line that says what is wrong."""
    args = parser().parse_args(arguments)
    try:
        answer = COMMANDS[args.command](args)
        print(json.dumps(answer.values, indent=2, sort_keys=True) if args.json else "\n".join(answer.lines))
        sys.stdout.flush()
    except PipelineError as error:
        return _refuse(error)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        explained = explain_os_error(error)
        if explained is None:
            raise
        return _refuse(explained)
    return answer.status


def _refuse(error: PipelineError) -> int:
    print(f"[registry] error: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
