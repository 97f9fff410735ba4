"""Bases in four bits (NF4, arXiv:2305.14314): how they are loaded, and what says that they cannot be here.

Which weights are quantised is a fact of the base (`base.quantise`), for the reference and the policy must stand on
the same ones. bitsandbytes does it, an optional package: nothing else here needs it.
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
    """Return what `from_pretrained` needs beside the usual for this base; nothing for one in full precision.

    Args:
        base: The pinned base.
        device: Where its weights go: 4-bit ones are made there.
        dtype: What is computed in; the weights' scales are in it after a second quantisation of their own.

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
    """Quantise a few numbers on the device, which is where a wrong build shows."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"`base.quantise` is {kind}, and bitsandbytes is not installed", f"{_INSTALL}, or set none")
    try:
        functional = importlib.import_module("bitsandbytes.functional")
        numbers = torch.linspace(-1, 1, 256, device=device)
        found = functional.dequantize_4bit(
            *functional.quantize_4bit(numbers, quant_type=kind, compress_statistics=True)
        )
        is_right = float((found - numbers).abs().max()) < 0.2  # half the widest gap between two levels of nf4 is 0.15
        told = "" if is_right else "what comes back is not what went in"
    except (ImportError, OSError, RuntimeError, AttributeError, AssertionError) as error:
        told = str(error).partition("\n")[0] or type(error).__name__
    if told:
        raise ConfigError(
            f"`base.quantise` is {kind}, and bitsandbytes does not work on {device.type} here ({told})",
            f"{_INSTALL} for this machine, or set none",
        )


def quantised_and_sharded() -> ConfigError:
    """Say that 4-bit weights cannot be cut into the parts that ranks keep."""
    return ConfigError(
        "`runtime.sharding` is to cut the base's weights, and the base is quantised",
        "set `base.quantise: none`, or `runtime.sharding: none`",
    )
