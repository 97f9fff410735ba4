"""Collects whatever no alias needs until standard input speaks: python -m tests.registry.collector ROOT."""

from __future__ import annotations

import datetime
import select
import sys

from tasks.registry.release import retention
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.registry import Registry


def main() -> None:
    store, removed = open_store(sys.argv[1]), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        registry = Registry(store, "demo")
        plan = retention.plan([registry], -1, datetime.datetime.now(datetime.UTC))["demo"]
        removed += len(retention.sweep(registry, plan))
    print(removed)


if __name__ == "__main__":
    main()
