"""What a base model's config and tokenizer must be for the later stages to load them: settled before anything runs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from tasks.core.end_ids import end_ids
from tasks.core.errors import DataError
from tasks.pinning.model_folder import read_object, text_config

_DTYPES = ("float32", "float16", "bfloat16")
_AGAIN = "download or save the model again"


def check_model(folder: Path, names: Collection[str]) -> None:
    """Refuse a model that a later stage could not load, or would load as something else.

    Code that comes with a model is never run.

    Raises:
        DataError: Naming the file and what is wrong in it.
    """
    _check_config(folder / "config.json")
    for name in {"generation_config.json", "config.json"} & set(names):
        _check_end_ids(folder / name)
    _check_loading(folder)


def _check_config(path: Path) -> None:
    config = read_object(path)
    text = text_config(config)
    if method := config.get("quantization_config"):
        kind = method.get("quant_method", "unknown") if isinstance(method, dict) else method
        advice = "name the model in full precision; `base.quantise: nf4` holds that in four bits"
        raise DataError(f"{path} says that the weights are quantised (`quantization_config`: {kind})", advice)

    for key in ("dtype", "torch_dtype"):
        for dtype in (config.get(key), text.get(key)):
            if dtype is not None and str(dtype).removeprefix("torch.") not in _DTYPES:
                raise DataError(f"`{key}` in {path} is {dtype!r}", f"write one of {', '.join(_DTYPES)} there")

    size, pad = text.get("vocab_size"), text.get("pad_token_id")
    if isinstance(size, int) and pad is not None and not (isinstance(pad, int) and 0 <= pad < size):
        raise DataError(f"`pad_token_id` in {path} is {pad!r}, outside the vocabulary of {size}", "write null there")


def _check_end_ids(path: Path) -> None:
    value = text_config(read_object(path)).get("eos_token_id")
    try:
        end_ids(value)
    except ValueError:
        advice = "write the token's id there, or a list of ids"
        raise DataError(f"`eos_token_id` in {path} is {value!r}", advice) from None


def _check_loading(folder: Path) -> None:
    """Let transformers read the config and the tokenizer, without running code that came with them."""
    from transformers import AutoConfig, AutoTokenizer

    loaders: dict[str, Any] = {"config.json": AutoConfig, "the tokenizer (tokenizer.json)": AutoTokenizer}
    for name, loader in loaders.items():
        try:
            loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001 what a damaged file raises differs from library to library
            text = " ".join(str(error).split()) or "no reason given"
            if "trust_remote_code" in text:
                advice = "choose a model that transformers has itself: code that comes with a model is never run"
                raise DataError(f"{folder}/config.json asks to run code of the model (`auto_map`)", advice) from None
            reason = f"{type(error).__name__}: {text[:200]}"
            raise DataError(f"{name} in {folder} does not load ({reason})", f"correct it there, or {_AGAIN}") from None
