"""Registers in a bucket in processes that are killed at random requests: python -m tests.registry.kill_requests.

Each dies before a request is sent, or when the server has answered and nobody has heard yet. It prints a JSON
record a death, as `kill_points.py` does for a folder.
"""

from __future__ import annotations

import json
import os
import random
import signal
from typing import Any

from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import register
from tasks.registry.stores.s3 import S3Store
from tasks.registry.versions.registry import Registry
from tests.registry.conftest import BUCKET
from tests.registry.kill_points import candidate

DEATHS = 50


def opened(root: str, client: Any) -> Registry:
    """Open the registry below ``root`` by a client that is there."""
    store = S3Store(f"s3://{BUCKET}/{root}")
    store._bucket.client = client
    return Registry(store, "demo")


def dies(root: str, client: Any, fuse: int, event: str) -> bool:
    """Register in a child that is killed at ``event`` of its request number ``fuse``; tell whether it was."""
    child = os.fork()
    if child == 0:
        left = [fuse]

        def burn(**_: Any) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        client.meta.events.register(f"{event}.s3", burn)
        register(opened(root, client), *candidate("first"), "champion", GateConfig())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def look(root: str, client: Any) -> dict[str, object]:
    """See the registry as a reader does: every version that it shows is read to the last byte."""
    registry = opened(root, client)
    versions = [registry.check(digest).digest for digest in registry.digests()]
    events = [entry.event.action for entry in registry.log.entries()]
    return {"versions": versions, "aliases": registry.history().aliases(), "events": events}


def main() -> None:
    ours, theirs = (S3Store(f"s3://{BUCKET}")._bucket.client for _ in range(2))  # the children's never connects here
    chance, deaths, requests = random.Random(7), 0, 90  # more than a registration makes: some outlive their fuse
    while deaths < DEATHS:
        event, fuse = chance.choice(("before-send", "needs-retry")), chance.randrange(requests)
        root = f"{event}-{fuse}-{deaths}"
        if not dies(root, theirs, fuse, event):
            requests = min(requests, fuse)
            continue
        seen = look(root, ours)
        register(opened(root, ours), *candidate("second"), "champion", GateConfig())
        print(json.dumps({"seen": seen, "after": look(root, ours)}))
        deaths += 1


if __name__ == "__main__":
    main()
