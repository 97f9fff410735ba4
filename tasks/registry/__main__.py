"""The registry on the command line: list, compare, pull, promote, roll back, collect.

run as: python -m tasks.registry <command> [--root FOLDER or s3://BUCKET/PREFIX] [--json]

Exit status: 0 done, 1 refused or damaged, 2 wrong arguments; 3 if the gate refuses (`decide`, `promote`), 4 if the
evidence is inconclusive (`decide`).
"""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

from tasks.core.errors import PipelineError
from tasks.core.files import explain_os_error
from tasks.registry.cli import change, export, look, standings
from tasks.registry.cli.output import Answer
from tasks.registry.log.names import DEFAULT_ALIAS
from tasks.registry.release.retention import DAYS

PINNED = ("respond.champion", "train.init_adapter")
Command = Callable[[Namespace], Answer]
Add = Callable[[str, Command], ArgumentParser]  # adds a command, and returns its parser
_VERSION = "NAME@champion, NAME@v3, NAME@<8 or more digits of the digest>; NAME alone is NAME@champion"


def parser() -> ArgumentParser:
    """Return the parser of the registry's commands."""
    shared = ArgumentParser(add_help=False)
    place = "the registry: a folder or s3://bucket/prefix (default: params.yaml, register.root)"
    shared.add_argument("--root", metavar="PLACE", help=place)
    shared.add_argument("--json", action="store_true", help="answer in JSON on standard output")
    top = ArgumentParser(prog="python -m tasks.registry", description="What was released, and why.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command) -> ArgumentParser:
        doc = (command.__doc__ or "").splitlines()[0]
        added = commands.add_parser(name, parents=[shared], help=doc, description=doc)
        added.set_defaults(command=command)
        return added

    _add_reading(add)
    _add_taking(add)
    _add_changing(add)
    return top


def _add_reading(add: Add) -> None:
    """Add the commands that only read."""
    add("list", look.list_versions).add_argument("name", nargs="?", metavar="NAME", help="only this name's versions")
    add("show", look.show).add_argument("version", metavar="VERSION", help=_VERSION)
    add("log", look.show_log).add_argument("name", metavar="NAME")
    diff = add("diff", look.diff)
    diff.add_argument("one", metavar="A", help=_VERSION)
    diff.add_argument("other", metavar="B", help=_VERSION)
    lineage = add("lineage", look.lineage).add_mutually_exclusive_group(required=True)
    lineage.add_argument("version", nargs="?", metavar="VERSION", help=_VERSION)
    lineage.add_argument("--data", metavar="DIGEST", help="the versions trained on this data instead")
    verify = add("verify", look.verify)
    verify.add_argument("version", nargs="?", metavar="VERSION", help="a version, or a NAME for all of its")
    decide = add("decide", look.decide)
    decide.add_argument("name", nargs="?", metavar="NAME", help="default: params.yaml, register.name")
    decide.add_argument("--alias", help="the alias to decide about (default: params.yaml, register.alias)")
    board = add("board", standings.show_board)
    board.add_argument("name", metavar="NAME")
    board.add_argument("--alias", default=DEFAULT_ALIAS, help=f"whose versions (default: {DEFAULT_ALIAS})")


def _add_taking(add: Add) -> None:
    """Add the commands that take a version elsewhere: into a folder, to the Hub, into params.yaml."""
    pull, hub = add("pull", export.pull), add("export-hub", export.to_hub)
    merged, vllm = add("export-merged", export.merged), add("export-vllm", export.for_vllm)
    pin, resolve = add("pin", export.pin), add("resolve", export.resolve)
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
    promote, rollback = add("promote", change.promote), add("rollback", change.rollback)
    deprecate, gc = add("deprecate", change.deprecate), add("gc", change.gc)
    for command in (promote, deprecate):
        command.add_argument("version", metavar="VERSION", help=_VERSION)
    rollback.add_argument("name", metavar="NAME")
    for command in (promote, rollback, deprecate):
        command.add_argument("--reason", metavar="WHY", help="kept in the log")
    for command in (promote, rollback):
        command.add_argument("--alias", default=DEFAULT_ALIAS, help=f"the alias to move (default: {DEFAULT_ALIAS})")

    promote.add_argument("--override", metavar="WHY", help="promote against the gate; the log keeps the reason")
    promote.add_argument("--tag", action="store_true", help="tag this checkout's HEAD for `dvc artifacts get` (GTO)")
    target = "only if it points to this version: champion, v3, digest"
    rollback.add_argument("--from", dest="left", metavar="VERSION", help=target)
    deprecate.add_argument("--undo", action="store_true", help="take a deprecation back")
    gc.add_argument("name", nargs="?", metavar="NAME", help="only this name's versions")
    days = f"for how long an entry keeps its version (default: {DAYS})"
    gc.add_argument("--days", type=float, default=DAYS, help=days)
    gc.add_argument("--apply", action="store_true", help="remove them; without this they are only shown")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; print its answer, or one line that says what is wrong."""
    args = parser().parse_args(arguments)
    try:
        answer: Answer = args.command(args)
        print(json.dumps(answer.values, indent=2, sort_keys=True) if args.json else "\n".join(answer.lines))
        sys.stdout.flush()
        return answer.status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (PipelineError, OSError) as error:
        refusal = explain_os_error(error) if isinstance(error, OSError) else error
        if refusal is None:
            raise
        print(f"[registry] error: {refusal}", file=sys.stderr)
        return refusal.exit_code


if __name__ == "__main__":
    sys.exit(main())
