"""Registers in processes that die at their k-th step, for every k: python -m tests.registry.kill_points ROOT.

A script of its own, so that it forks from a process without threads. It prints a JSON record a
death: what a reader saw after it, and what a second run made of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tasks.registry.gate.gate import GateConfig
from tasks.registry.log.evidence import Evidence
from tasks.registry.release.release import register
from tasks.registry.stores.folder import FolderStore
from tasks.registry.stores.store import OnBytes
from tasks.registry.versions.manifest import Candidate
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample


class DyingStore(FolderStore):
    """A folder store whose process ends, as by kill -9, when its fuse has burnt down."""

    def __init__(self, root: Path, fuse: int) -> None:
        super().__init__(root)
        self.fuse = fuse

    def step(self) -> None:
        self.fuse -= 1
        if self.fuse < 0:
            os._exit(9)

    def _fill(self, draft: Path, content: bytes | Path, on_bytes: OnBytes | None) -> None:
        self.step()
        if self.fuse == 0 and isinstance(content, bytes):
            draft.write_bytes(content[: len(content) // 2])  # died with half a file written
        self.step()
        super()._fill(draft, content, on_bytes)

    def _link(self, draft: Path, path: Path) -> bool:
        self.step()
        is_created = super()._link(draft, path)
        self.step()
        return is_created


def candidate(note: str) -> tuple[Candidate, Evidence]:
    """A version of few files, so that the deaths are few; `note` is in its lineage."""
    whole, evidence = sample(note=note)
    left_out = ("README.md", "report.html", "train/metrics.json", "params.yaml")
    return Candidate(whole.identity, {n: c for n, c in whole.files.items() if n not in left_out}), evidence


def dies(root: Path, fuse: int) -> bool:
    """Register in a child whose fuse is ``fuse``; tell whether it died before it was done."""
    child = os.fork()
    if child == 0:
        register(Registry(DyingStore(root, fuse), "demo"), *candidate("first"), "champion", GateConfig())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def files(root: Path) -> dict[str, str]:
    found = (path for path in root.rglob("*") if path.is_file() and ".drafts" not in path.parts)
    return {path.relative_to(root).as_posix(): path.read_bytes().hex() for path in found}


def look(root: Path) -> dict[str, object]:
    """See the registry as a reader does: every version that it shows is read to the last byte."""
    registry = Registry(FolderStore(root), "demo")
    versions = [registry.check(digest).digest for digest in registry.digests()]
    history = registry.history()
    return {
        "versions": versions,
        "aliases": history.aliases(),
        "events": [entry.event.action for entry in registry.log.entries()],
    }


def main() -> None:
    fuse = 0
    while True:
        root = Path(sys.argv[1]) / str(fuse)
        if not dies(root, fuse):
            break
        seen, left = look(root), files(root)
        register(Registry(FolderStore(root), "demo"), *candidate("second"), "champion", GateConfig())
        now = files(root)
        kept = all(now[name] == content for name, content in left.items())
        print(json.dumps({"seen": seen, "kept": kept, "after": look(root)}))
        fuse += 1


if __name__ == "__main__":
    main()
