"""The row store on the command line, as `git gc` and `git fsck` are for a repository.

run as: python -m tasks.rowstore compact [KIND ...] [--store FOLDER or s3://BUCKET/PREFIX]
        python -m tasks.rowstore verify  [KIND ...] [--store FOLDER or s3://BUCKET/PREFIX]

Exit status: 0 done, 1 damaged segments or an error, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import sys

from tasks.core import paths
from tasks.core.errors import ConfigError, PipelineError
from tasks.core.files import explain_os_error
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.rowstore.row_store import DTYPES, RowStore
from tasks.rowstore.upkeep import compact, verify
from tasks.telemetry import log


def parser() -> argparse.ArgumentParser:
    """Return the parser of the two commands."""
    top = argparse.ArgumentParser(prog="python -m tasks.rowstore", description="Compact or verify the row store.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, doc in (("compact", "make many small segments into one"), ("verify", "check every byte")):
        command = commands.add_parser(name, help=doc, description=doc)
        command.add_argument("kinds", nargs="*", metavar="KIND", help=f"{' or '.join(DTYPES)} (default: both)")
        command.add_argument("--store", metavar="PLACE", help="the store (default: params.yaml, runtime.row_store)")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command and print a line for each kind, or one line that says what is wrong."""
    words = parser().parse_args(arguments)
    log.set_up("rowstore")
    try:
        location = words.store or load_section(paths.PARAMS, "runtime", RuntimeConfig).row_store
        if not location:
            raise ConfigError("`runtime.row_store` is empty, so no row is stored", "name a store with --store")
        if unknown := [kind for kind in words.kinds if kind not in DTYPES]:
            raise ConfigError(f"a row store has no rows of the kind {unknown[0]!r}", f"name {' or '.join(DTYPES)}")

        stores = [RowStore.open(location, kind) for kind in words.kinds or DTYPES]
        return max(_run(words.command, store) for store in stores)
    except PipelineError as error:
        return _refuse(error)
    except OSError as error:
        expected = explain_os_error(error)
        if expected is None:
            raise
        return _refuse(expected)


def _run(command: str, store: RowStore) -> int:
    """Run a command on the rows of one kind; return the exit status."""
    if command == "compact":
        done = compact(store)
        text = f"{done.merged} segments are one now, of {done.rows} rows" if done.merged else "nothing to compact"
        print(f"{store.kind}: {text}")
        return 0

    count, damaged = verify(store)
    print(f"{store.kind}: {count} segments, {damaged} damaged")
    return int(damaged > 0)


def _refuse(error: PipelineError) -> int:
    print(f"[rowstore] error: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
