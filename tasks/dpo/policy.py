"""The policy: a frozen base model with LoRA adapters, loaded, seeded, saved and named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import save as safetensors_bytes
from transformers import AutoModelForCausalLM

from tasks.core import log
from tasks.core.base_model import BaseModel
from tasks.core.errors import ArtifactError, ConfigError
from tasks.core.files import pretty_json, write_bytes, write_text
from tasks.core.params import check
from tasks.dpo.adapter_files import CONFIG, WEIGHTS
from tasks.dpo.mixed import mix
from tasks.dpo.quantised import loading_options, quantised_and_sharded

_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """The shape of the adapter (arXiv:2106.09685).

    Attributes:
        rank: r, the inner dimension of each update B·A.
        alpha: The update is scaled by alpha / rank.
        dropout: Share of the adapter's inputs zeroed in training, in [0, 1).
        target_modules: `all-linear`, or the names of the linear layers to adapt.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        check(self.rank >= 1, "train.lora.rank", self.rank, "give 1 or more, for example 16")
        check(self.alpha >= 1, "train.lora.alpha", self.alpha, "give 1 or more, for example twice the rank")
        check(0 <= self.dropout < 1, "train.lora.dropout", self.dropout, "give a share in [0, 1)")


def load_base(base: BaseModel, device: torch.device | str = "cpu", is_sharded: bool = False) -> Any:
    """Load the pinned base in evaluation mode, in the type that it computes in, or in 4 bits, as it was pinned.

    By itself that is bfloat16 for CUDA and float32 for a CPU. `base.compute_dtype: bfloat16` is meant for CPUs with
    bfloat16 products (AVX512_BF16, AMX); others give the same numbers, rounding apart, and take longer than with
    float32. On a CPU linear layers then multiply in it and all else stays in float32, see :mod:`tasks.dpo.mixed`;
    against float32, on two trained Llamas of 260 and 656 thousand parameters, the log-probability of a token is off
    by less than 0.03 on average and 0.4 at most, that of an answer by less than 0.8 of 80. The first step's margins
    are 0 all the same, for reference and policy are off alike.

    Args:
        base: What the base stage pinned.
        device: Where the model will compute.
        is_sharded: Leave it on the CPU: :func:`tasks.dpo.sharding.place` moves to the device what belongs there.
            Weights whose files are in that type take no memory of the process, however many ranks load them.

    Raises:
        ArtifactError: The files that the base stage pinned do not load.
        ConfigError: The base is quantised, which is not possible here, or is to be sharded too.
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
            dtype="auto" if is_mixed else dtype,  # what stays in float32 is not to be rounded before
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"the base model {base.source} does not load ({error})", "check `base.source`, then `dvc repro -f base`"
        ) from None
    if missing := sorted(loaded["missing_keys"]):
        raise ArtifactError(
            f"the base model {base.source} has no weights for {', '.join(missing[:3])}, which would be random",
            "give a causal language model as `base.source`",
        )
    model.config.use_cache = False
    model.requires_grad_(False).eval()
    if is_mixed:
        mix(model)
    return model if is_sharded else model.to(device)


def has_bfloat16_products() -> bool:
    """Tell whether this machine's CPU multiplies matrices of bfloat16 (AVX512_BF16, AMX, or Arm's BF16)."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def attach_lora(model: Any, settings: LoraSettings, seed: int) -> Any:
    """Freeze ``model`` and put fresh float32 adapters on it; the same seed gives the same adapters.

    Raises:
        ConfigError: A name of ``settings.target_modules`` is no layer of the model.
    """
    names = settings.target_modules
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names if isinstance(names, str) else list(names),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            policy = get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"`train.lora.target_modules` does not fit the model ({error})", "name its layers"
            ) from None
    for name in [] if isinstance(names, str) else names:
        if not any(f".{found}".endswith(f".{name}") for found in policy.targeted_module_names):
            raise ConfigError(f"`train.lora.target_modules` names `{name}`, which is no layer of the model", "mend it")
    for parameter in adapter_parameters(policy):
        parameter.data = parameter.data.float()
    return policy


def adapter_parameters(policy: Any) -> list[torch.nn.Parameter]:
    """Return the trainable parameters, in the model's own order: the order of optimizer and checkpoints."""
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def save_adapter(policy: Any, folder: Path, base: BaseModel | None = None) -> None:
    """Write the adapter in PEFT's format, with the same bytes each time.

    PEFT's own writer keeps sets in its config, whose order changes from process to process.

    Args:
        policy: The model that :func:`attach_lora` returned.
        folder: Where `adapter_config.json` and `adapter_model.safetensors` are written.
        base: What to name as the base; by default what the model itself was loaded from.
    """
    config = json.loads(json.dumps(policy.peft_config["default"].to_dict(), default=_plain))
    config["inference_mode"] = True
    if base is not None:
        config["base_model_name_or_path"], config["revision"] = base.location, base.revision
    # The embeddings are the base's own; left to itself, PEFT would ask the hub whether they grew.
    found = get_peft_model_state_dict(policy, save_embedding_layers=False)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    write_bytes(folder / WEIGHTS, safetensors_bytes(dict(sorted(state.items())), metadata={"format": "pt"}))
    write_text(folder / CONFIG, pretty_json(config))


def _plain(value: Any) -> Any:
    """Turn what JSON does not know in a PEFT config into what it does, in a fixed order."""
    return sorted(value) if isinstance(value, set | frozenset) else getattr(value, "value", str(value))
