"""Whether transformers reads a model's config and tokenizer: tried before later stages need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.end_ids import end_ids
from tasks.core.errors import DataError
from tasks.pinning.model_folder import CONFIG, WEIGHTS, read_object, settings_in, vocabulary_of

_GENERATION, _TOKENIZER = "generation_config.json", "tokenizer_config.json"
_JSON = (CONFIG, _GENERATION, _TOKENIZER, "tokenizer.json", "special_tokens_map.json", "added_tokens.json")


def check_settings(folder: Path) -> None:
    """Refuse a model whose config, tokenizer or token ids do not work here; code that came with it never runs.

    Raises:
        DataError: A file is damaged or does not load, the weights are quantised already, or an id is no token.
    """
    names = settings_in(folder)
    objects = {name: read_object(folder / name) for name in _JSON if name in names}
    _refuse_quantised(folder, objects[CONFIG])
    if weights := objects[CONFIG].get("transformers_weights"):
        what = f"{folder / CONFIG} names other weights, {weights!r}, in `transformers_weights`"
        raise DataError(what, f"remove the key, and name the weights {WEIGHTS}")

    _check_dtype(folder, objects[CONFIG])
    config = _load_config(folder, "auto_map" in objects[CONFIG])
    _check_ids(folder, objects[CONFIG], objects.get(_GENERATION, {}))
    _build(folder, config)
    _load_tokenizer(folder, "auto_map" in objects.get(_TOKENIZER, {}), config)


def _refuse_quantised(folder: Path, config: dict[str, Any]) -> None:
    text = config.get("text_config")
    for settings in (config, text if isinstance(text, dict) else {}):
        if kind := settings.get("quantization_config"):
            method = kind.get("quant_method", "unnamed") if isinstance(kind, dict) else kind
            what = f"{folder / CONFIG} has `quantization_config` ({method}): the weights are quantised already"
            raise DataError(what, "name the model in full precision; `base.quantise: nf4` takes four bits of it")


def _check_dtype(folder: Path, config: dict[str, Any]) -> None:
    """Refuse a type of the weights that torch does not have under this name, such as bf16."""
    import torch

    text = config.get("text_config")
    for settings in (config, text if isinstance(text, dict) else {}):
        for key in ("dtype", "torch_dtype"):
            name = settings.get(key)
            if isinstance(name, str) and not isinstance(getattr(torch, name, None), torch.dtype):
                what = f"{folder / CONFIG} has {name!r} in `{key}`, which names no type of torch"
                raise DataError(what, "write bfloat16, float16 or float32, the type that the weights have")


def _load_config(folder: Path, has_code: bool) -> Any:
    """Return the config that transformers reads, of a causal language model that transformers itself has."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001  # the library raises many kinds, some of them its own
        raise unread(folder / CONFIG, error, has_code) from None
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        reason = ValueError(f"no causal language model of transformers has the type {config.model_type!r}")
        raise unread(folder / CONFIG, reason, has_code)
    return config


def _build(folder: Path, config: Any) -> None:
    """Refuse a config of which transformers makes no model; the model has no values, so it takes no memory.

    Raises:
        DataError: Naming the value.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    try:
        with torch.device("meta"):
            # the config's own attention may not be installed on this machine
            AutoModelForCausalLM.from_config(config, attn_implementation="eager", trust_remote_code=False)
    except Exception as error:  # noqa: BLE001  # the library raises many kinds
        if isinstance(error, KeyError) and error.args[0] in _rope_types(config):
            known = ", ".join(sorted({"default", *ROPE_INIT_FUNCTIONS}))
            what = f"{folder / CONFIG} has {error.args[0]!r} as `rope_type`, which transformers does not know"
            raise DataError(what, f"write one of {known}, the one that the model was trained with") from None
        raise unread(folder / CONFIG, error, has_code=False) from None


def _rope_types(config: Any) -> set[str]:
    """Return the kinds of rotary positions that a config names: one, or one for each type of layer."""
    ropes = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return {rope["rope_type"] for rope in (ropes, *ropes.values()) if isinstance(rope, dict) and "rope_type" in rope}


def _load_tokenizer(folder: Path, has_code: bool, config: Any) -> None:
    from transformers import AutoTokenizer

    name = "tokenizer.json" if (folder / "tokenizer.json").exists() else "tokenizer"
    try:
        AutoTokenizer.from_pretrained(str(folder), config=config, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # noqa: BLE001  # tokenizers raises Exception itself
        raise unread(folder / (_TOKENIZER if has_code else name), error, has_code) from None


def unread(path: Path, error: Exception, has_code: bool) -> DataError:
    """Return the refusal of a file or folder of which transformers makes nothing, with the library's own reason."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, KeyError):  # its text is the key alone
        reason = f"nothing is known by the name {reason}"
    if has_code:
        what = f"{path} has `auto_map`: the model needs code of its own, which is never run, and without: {reason}"
        return DataError(what, "name a model in `base.source` whose architecture and tokenizer transformers has")
    return DataError(f"{path} does not load: {reason}", "correct the value there, or download or save the model again")


def _check_ids(folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> None:
    """Refuse ids to pad with and to stop at that are outside the vocabulary."""
    size = vocabulary_of(folder)
    text = config.get("text_config")
    for name, settings in ((CONFIG, config), (CONFIG, text), (_GENERATION, generation)):
        if not isinstance(settings, dict):
            continue
        try:
            ids = end_ids({}, settings)
        except ValueError as error:
            raise DataError(f"{folder / name} does not say where to stop: {error}", _right(size)) from None
        pad = settings.get("pad_token_id")
        for key, token in [("eos_token_id", each) for each in ids] + [("pad_token_id", pad)] * (pad is not None):
            if not isinstance(token, int) or isinstance(token, bool) or token < 0 or (size and token >= size):
                what = f"{folder / name} has {token!r} in `{key}`, outside the vocabulary of {size} tokens"
                raise DataError(what, _right(size))


def _right(size: int) -> str:
    return f"write an id of the tokenizer, from 0 to {size - 1}, or null" if size else "write an id of the tokenizer"
