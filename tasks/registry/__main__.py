"""The registry on the command line: list, show, verify, pull, log, promote, rollback, decide.

run as: python -m tasks.registry <command> [--root FOLDER] [--json]

Exit status: 0 done, 1 refused or damaged, 2 wrong words; of `decide` and `promote` also 3 when the
gate keeps what stands, and of `decide` 4 when the evidence is inconclusive.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from tasks.core.errors import PipelineError
from tasks.core.files import explain_os_error
from tasks.registry.commands import COMMANDS
from tasks.registry.names import CHAMPION

_VERSION = "NAME@champion, NAME@v3, NAME@<8 or more digits of the digest>; NAME alone is NAME@champion"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the registry's commands."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--root", metavar="FOLDER", help="the registry (default: params.yaml, register.root)")
    shared.add_argument("--json", action="store_true", help="answer in JSON on standard output")
    top = argparse.ArgumentParser(prog="python -m tasks.registry", description="What was released, and why.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str) -> argparse.ArgumentParser:
        doc = (COMMANDS[name].__doc__ or "").splitlines()[0]
        return commands.add_parser(name, parents=[shared], help=doc, description=doc)

    add("list").add_argument("name", nargs="?", metavar="NAME", help="only this name's versions")
    add("show").add_argument("version", metavar="VERSION", help=_VERSION)
    add("verify").add_argument("version", nargs="?", metavar="VERSION", help="a version, or a NAME for all of its")
    pull = add("pull")
    pull.add_argument("version", metavar="VERSION", help=_VERSION)
    pull.add_argument("to", metavar="FOLDER", help="a folder that is absent or empty")
    add("log").add_argument("name", metavar="NAME")
    promote = add("promote")
    promote.add_argument("version", metavar="VERSION", help=_VERSION)
    promote.add_argument("--override", metavar="WHY", help="promote against the gate; the log keeps the reason")
    rollback = add("rollback")
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument("--reason", metavar="WHY", help="kept in the log")
    decide = add("decide")
    decide.add_argument("name", nargs="?", metavar="NAME", help="default: params.yaml, register.name")
    for command in (promote, rollback):
        command.add_argument("--alias", default=CHAMPION, help=f"the alias to move (default: {CHAMPION})")
    decide.add_argument("--alias", help="the alias to decide about (default: params.yaml, register.alias)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; print its answer, or one line that says what is wrong."""
    words = parser().parse_args(arguments)
    try:
        answer = COMMANDS[words.command](words)
        print(json.dumps(answer.values, indent=2, sort_keys=True) if words.json else "\n".join(answer.lines))
        sys.stdout.flush()
    except PipelineError as error:
        return _refuse(error)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        told = explain_os_error(error)
        if told is None:
            raise
        return _refuse(told)
    return answer.status


def _refuse(error: PipelineError) -> int:
    print(f"[registry] error: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
