"""Upkeep of the row store, as `git gc` and `git fsck` are for a repository.

run as: python -m tasks.upkeep compact [KIND ...] [--store FOLDER or s3://BUCKET/PREFIX]
        python -m tasks.upkeep verify  [KIND ...] [--store FOLDER or s3://BUCKET/PREFIX]

Exit status: 0 done, 1 damaged segments or an error, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import sys

from tasks.core import paths
from tasks.core.errors import ConfigError
from tasks.core.params import load_section
from tasks.core.runtime import RuntimeConfig
from tasks.rowstore.row_store import DTYPES, RowStore
from tasks.telemetry import log
from tasks.telemetry.one_line import exit_status
from tasks.upkeep.compaction import compact, verify


def main() -> int:
    """Run one command and print a line for each kind, or one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tasks.upkeep", description="Compact or verify the row store.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, doc in (("compact", "make many small segments into one"), ("verify", "check every byte")):
        command = commands.add_parser(name, help=doc, description=doc)
        command.add_argument("kinds", nargs="*", metavar="KIND", help=f"{' or '.join(DTYPES)} (default: all)")
        command.add_argument("--store", metavar="PLACE", help="the store (default: params.yaml, runtime.row_store)")
    words = parser.parse_args()

    log.set_up("upkeep")
    return exit_status("upkeep", lambda: _run(words))


def _run(words: argparse.Namespace) -> int:
    location = words.store or load_section(paths.PARAMS, "runtime", RuntimeConfig).row_store
    if not location:
        raise ConfigError("`runtime.row_store` is empty, so no row is stored", "name a store with --store")
    if unknown := [kind for kind in words.kinds if kind not in DTYPES]:
        raise ConfigError(f"a row store has no rows of the kind {unknown[0]!r}", f"name {' or '.join(DTYPES)}")

    status = 0
    for kind in words.kinds or DTYPES:
        store = RowStore.open(location, kind)
        if words.command == "compact":
            merged, rows = compact(store)
            print(f"{kind}: {f'{merged} segments are one now, of {rows} rows' if merged else 'nothing to compact'}")
        else:
            count, damaged = verify(store)
            print(f"{kind}: {count} segments, {damaged} damaged")
            status = max(status, int(damaged > 0))
    return status


if __name__ == "__main__":
    sys.exit(main())
