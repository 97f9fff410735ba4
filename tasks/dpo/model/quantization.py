"""Bases in four bits (NF4, arXiv:2305.14314): how they are loaded, and the error where they cannot be.

Quantisation belongs to the base (`base.quantise`), for reference and policy must have the same weights. It needs
bitsandbytes, an optional package that nothing else here needs.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from tasks.core.base_model import BaseModel
from tasks.core.errors import ConfigError

_INSTALL = "`pip install 'bitsandbytes>=0.48'`"


def loading_options(base: BaseModel, device: torch.device | str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the further arguments of `from_pretrained` for this base; none for one in full precision.

    Args:
        base: The pinned base.
        device: Where the 4-bit weights are made.
        dtype: The compute type. The weights' scales, which are quantised themselves, have it once dequantised.

    Raises:
        ConfigError: bitsandbytes is missing, or does not work on the device.
    """
    if base.quantise == "none":
        return {}
    _refuse_unless_it_works(base.quantise, torch.device(device))
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=base.quantise,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config, "device_map": {"": torch.device(device)}}


def _refuse_unless_it_works(kind: str, device: torch.device) -> None:
    """Quantise a few numbers on the device, where a wrong build of bitsandbytes fails.

    Raises:
        ConfigError: bitsandbytes is missing, or gives an error or wrong numbers.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"`base.quantise` is {kind}, and bitsandbytes is not installed", f"{_INSTALL}, or set none")

    try:
        functional = importlib.import_module("bitsandbytes.functional")
        numbers = torch.linspace(-1, 1, 256, device=device)
        quantised = functional.quantize_4bit(numbers, quant_type=kind, compress_statistics=True)
        decoded = functional.dequantize_4bit(*quantised)
        is_right = float((decoded - numbers).abs().max()) < 0.2  # half the widest gap between two levels of nf4 is 0.15
        fault = "" if is_right else "dequantised numbers are not the ones that were quantised"
    except (ImportError, OSError, RuntimeError, AttributeError, AssertionError) as error:
        fault = str(error).partition("\n")[0] or type(error).__name__

    if fault:
        what = f"`base.quantise` is {kind}, and bitsandbytes does not work on {device.type} here ({fault})"
        raise ConfigError(what, f"{_INSTALL} for this machine, or set none")


def quantised_and_sharded() -> ConfigError:
    """Return the error for 4-bit weights, which cannot be sharded."""
    return ConfigError(
        "`runtime.sharding` would shard the base's weights, and the base is quantised",
        "set `base.quantise: none`, or `runtime.sharding: none`",
    )
