"""Where a causal language model keeps what stands before its head."""

from __future__ import annotations

from typing import Any


def body_of(model: Any) -> Any | None:
    """Return what gives a bare causal language model's hidden states, None where nothing is found.

    It is under the name that the class gives; the text models of Llama 4 and Mllama give one that only the model
    around them has.
    """
    return getattr(model, model.base_model_prefix, None) or getattr(model, "model", None)
