"""How two versions differ: identity, params, lineage and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.core.nested import flatten
from tasks.core.params import parse_params
from tasks.registry.log.evidence import METRICS
from tasks.registry.log.names import short
from tasks.registry.versions.manifest import EVIDENCE, LINEAGE, PARAMS
from tasks.registry.versions.registry import Registry

PARTS = ("identity", "params", "lineage", "metrics")
_TRAIN_METRICS = "train/metrics.json"


def compare(one: tuple[Registry, str], other: tuple[Registry, str]) -> dict[str, dict[str, list[Any]]]:
    """Return how two versions differ.

    Args:
        one: A registry and the digest of a version in it.
        other: As ``one``; it may have another name.

    Returns:
        For each of ``PARTS``: both values, by dotted key, where they differ.
    """
    facts = [_facts(*side) for side in (one, other)]
    return {part: dict(_differences(facts[0][part], facts[1][part])) for part in PARTS}


def _facts(registry: Registry, digest: str) -> dict[str, dict[str, Any]]:
    version = registry.read(digest)

    def read(name: str) -> Any:
        return json.loads(registry.read_file(digest, name)) if name in version.files else {}

    params = registry.read_file(digest, PARAMS).decode() if PARAMS in version.files else ""
    lineage = {key: value for key, value in read(LINEAGE).items() if key != "stages"}
    metrics = {"train": read(_TRAIN_METRICS), "winrate": read(EVIDENCE + METRICS)}
    return {
        "identity": {part: short(value) for part, value in vars(version.identity).items()},
        "params": flatten(parse_params(params, f"{PARAMS} of {short(digest)}") if params else {}, with_lists=True),
        "lineage": flatten(lineage, with_lists=True),
        "metrics": {key: value for key, value in flatten(metrics).items() if isinstance(value, (int, float))},
    }


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    for key in sorted({*one, *other}):
        if one.get(key) != other.get(key):
            yield key, [one.get(key), other.get(key)]
