"""How two versions differ: params, data, numbers, and the size of what their weights change."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.core.errors import RegistryError
from tasks.core.nested import flatten
from tasks.core.params import parse_params
from tasks.registry.log.evidence import METRICS
from tasks.registry.log.names import short
from tasks.registry.versions.manifest import ADAPTER_CONFIG, EVIDENCE, LINEAGE, PARAMS, WEIGHTS
from tasks.registry.versions.registry import Registry

_TRAIN_METRICS = "train/metrics.json"
_A, _B = ".lora_A.weight", ".lora_B.weight"
Matrix = npt.NDArray[np.float64]


def compare(one: tuple[Registry, str], other: tuple[Registry, str]) -> dict[str, Any]:
    """Return what two versions do not share.

    Args:
        one: A registry and the digest of a version in it.
        other: As ``one``; it may have another name.

    Returns:
        ``params``, ``lineage`` and ``metrics``: pairs of values by dotted key, where they differ. ``identity``: the
        parts that differ. ``weights``: Frobenius norms of s·B·A, summed over the adapter's modules, of either and of
        their difference, and the same by module; None where they are not plain LoRA of the same modules.
    """
    sides = [_facts(*side) for side in (one, other)]
    found = {part: dict(_differences(sides[0][part], sides[1][part])) for part in sides[0] if part != "factors"}
    return {**found, "weights": _norms(*(side["factors"] for side in sides))}


def _facts(registry: Registry, digest: str) -> dict[str, Any]:
    version = registry.read(digest)

    def read(name: str) -> Any:
        return json.loads(registry.read_file(digest, name)) if name in version.files else {}

    params = registry.read_file(digest, PARAMS).decode() if PARAMS in version.files else ""
    lineage = read(LINEAGE)
    metrics = {"train": read(_TRAIN_METRICS), "winrate": read(EVIDENCE + METRICS)}
    weights = registry.read_file(digest, WEIGHTS)
    return {
        "identity": {part: short(value) for part, value in vars(version.identity).items()},
        "params": flatten(parse_params(params, f"{PARAMS} of {short(digest)}") if params else {}, with_lists=True),
        "lineage": flatten({key: value for key, value in lineage.items() if key != "stages"}, with_lists=True),
        "metrics": {key: value for key, value in flatten(metrics).items() if isinstance(value, (int, float))},
        "factors": _factors(weights, read(ADAPTER_CONFIG), short(digest)),
    }


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    for key in sorted({*one, *other}):
        if one.get(key) != other.get(key):
            yield key, [one.get(key), other.get(key)]


def _factors(weights: bytes, config: Mapping[str, Any], name: str) -> dict[str, tuple[Matrix, Matrix]]:
    """Return s·B and A of every module, in float64; empty for what is not plain LoRA.

    Raises:
        RegistryError: The weights cannot be read.
    """
    from safetensors import SafetensorError

    try:
        tensors = _load(weights)
    except SafetensorError as error:
        raise RegistryError(f"the weights of version {name} cannot be read: {error}", "run `verify`") from None
    modules = sorted(key.removesuffix(_A) for key in tensors if key.endswith(_A))
    if {*tensors} != {module + part for module in modules for part in (_A, _B)} or config.get("use_dora"):
        return {}
    alphas, ranks = config.get("alpha_pattern") or {}, config.get("rank_pattern") or {}
    if alphas or ranks:
        return {}
    rank, alpha = float(config.get("r", 1)), float(config.get("lora_alpha", 1))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return {module: (scale * tensors[module + _B], tensors[module + _A]) for module in modules}


def _load(weights: bytes) -> dict[str, Matrix]:
    """Read tensors of any floating type, bfloat16 too, which numpy does not know."""
    header = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    if not any(told.get("dtype") == "BF16" for told in header.values()):
        from safetensors.numpy import load

        return {key: tensor.astype(np.float64) for key, tensor in load(weights).items()}
    from safetensors.torch import load as load_torch

    return {key: tensor.double().numpy() for key, tensor in load_torch(weights).items()}


def _norms(one: Mapping[str, tuple[Matrix, Matrix]], other: Mapping[str, tuple[Matrix, Matrix]]) -> Any:
    """Return the norms of both updates and of their difference, in all and by module."""
    if not one or {*one} != {*other} or any(_sizes(one[module]) != _sizes(other[module]) for module in one):
        return None
    squares = {module: _squares(one[module], other[module]) for module in one}
    whole = [sum(parts) for parts in zip(*squares.values(), strict=True)]
    return {
        **_named(whole),
        "modules": {module: _named(parts) for module, parts in squares.items()},
    }


def _sizes(factors: tuple[Matrix, Matrix]) -> tuple[int, int]:
    return factors[0].shape[0], factors[1].shape[1]


def _squares(one: tuple[Matrix, Matrix], other: tuple[Matrix, Matrix]) -> tuple[float, float, float]:
    """Return ‖B₁A₁‖², ‖B₂A₂‖² and ‖B₁A₁ - B₂A₂‖², from products of rank size: ⟨BA, B'A'⟩ = Σ (BᵀB') ∘ (AA'ᵀ)."""

    def inner(left: tuple[Matrix, Matrix], right: tuple[Matrix, Matrix]) -> float:
        return float(((left[0].T @ right[0]) * (left[1] @ right[1].T)).sum())

    first, second = inner(one, one), inner(other, other)
    return first, second, max(first + second - 2 * inner(one, other), 0.0)


def _named(squares: Any) -> dict[str, float]:
    return dict(zip(("one", "other", "difference"), (math.sqrt(value) for value in squares), strict=True))
