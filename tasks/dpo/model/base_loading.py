"""Loading the pinned base model: frozen, in evaluation mode, in the type that it computes in."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError
from tasks.dpo.model.cpu_bfloat16 import mix
from tasks.dpo.model.quantization import loading_options, quantised_and_sharded
from tasks.telemetry import log

_log = log.get_logger(__name__)


def load_base(base: BaseModel, device: torch.device | str = "cpu", is_sharded: bool = False) -> Any:
    """Load the pinned base, frozen and in evaluation mode, in its compute type, or in 4 bits where it was pinned so.

    The default compute type is bfloat16 on CUDA and float32 on a CPU. `base.compute_dtype: bfloat16` is meant for CPUs
    with bfloat16 products (AVX512_BF16, AMX); docs/models.md says how far the numbers then are from float32. On a CPU,
    linear layers multiply in bfloat16 and everything else stays in float32 (:mod:`tasks.dpo.model.cpu_bfloat16`).

    Args:
        base: What the base stage pinned.
        device: Where the model will compute.
        is_sharded: Leave the model on the CPU; :func:`tasks.dpo.model.sharding.place` moves this rank's part of it to
            the device. Weights whose files have the compute type are mapped from the files, one copy for all ranks.

    Raises:
        ArtifactError: The files that the base stage pinned do not load.
        ConfigError: The base is quantised, and 4 bits do not work here, or it would be sharded too.
    """
    if is_sharded and base.quantise != "none":
        raise quantised_and_sharded()

    kind = torch.device(device).type
    dtype = getattr(torch, base.dtype_on(kind))
    if kind == "cpu" and dtype == torch.bfloat16 and not has_bfloat16_products():
        _log.info("`base.compute_dtype` is bfloat16, and this CPU has no products in it: slow, slower than in float32")

    options = loading_options(base, device, dtype)
    is_mixed = kind == "cpu" and dtype == torch.bfloat16 and base.quantise == "none"
    try:
        model, loaded = AutoModelForCausalLM.from_pretrained(
            base.location,
            revision=base.revision or "main",
            dtype="auto" if is_mixed else dtype,  # weights that stay in float32 must not be rounded first
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # noqa: BLE001  # AssertionError and ImportError among them
        what = f"the base model {base.source} does not load ({error})"
        raise ArtifactError(what, "check `base.source`, then `dvc repro -f base`") from None
    if missing := sorted(loaded["missing_keys"]):
        what = f"the base model {base.source} has no weights for {', '.join(missing[:3])}, which would be random"
        raise ArtifactError(what, "give a causal language model as `base.source`")

    model.config.use_cache = False
    model.requires_grad_(False).eval()
    if is_mixed:
        mix(model)
    return model if is_sharded else model.to(device)


def has_bfloat16_products() -> bool:
    """Tell whether this machine's CPU multiplies matrices of bfloat16 (AVX512_BF16, AMX, or Arm's BF16)."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
