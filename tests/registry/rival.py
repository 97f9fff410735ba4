"""One of several processes that register and promote at once: python -m tests.registry.rival ROOT NUMBER VERSIONS."""

from __future__ import annotations

import sys

from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import promote, register
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.registry import Registry
from tests.registry.samples import sample, scores_of

EVEN = scores_of(30, losses=30)  # as good as the reference: the gate itself promotes none


def main() -> None:
    number = int(sys.argv[2])
    registry = Registry(open_store(sys.argv[1]), "demo")
    for index in range(int(sys.argv[3])):  # versions that nobody else registers, and as many that all do
        shared = register(registry, *sample(index, EVEN, note=f"of {number}"), "champion", GateConfig())
        unshared = register(registry, *sample(100 * number + 10 + index, EVEN), "champion", GateConfig())
        promote(registry, unshared.digest, "champion", override=f"{number}/{index}")
        promote(registry, shared.digest, f"of-{number}", override=f"{number}/{index}")


if __name__ == "__main__":
    main()
