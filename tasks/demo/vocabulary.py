"""The demo's tokenizer: a byte-level BPE trained on the demo's own text, with a ChatML template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""A turn is ``<|im_start|>role⏎content<|im_end|>⏎``, and ``<|im_end|>`` is the EOS token."""

Messages = Sequence[dict[str, str]]


def train_tokenizer(texts: Sequence[str], size: int) -> Any:
    """Train the tokenizer on ``texts``; the same texts give the same tokenizer.

    Args:
        texts: Plain text of the world, without special tokens.
        size: Number of tokens, the 256 bytes and three special tokens among them.

    Returns:
        A transformers fast tokenizer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, START, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    roles = [f"{role}\n" for role in ("user", "assistant", "system")] * len(texts)
    tokenizer.train_from_iterator([*texts, *roles], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )


def encode_conversation(tokenizer: Any, messages: Messages) -> list[int]:
    """Return the token ids of a whole conversation, each turn ending in one EOS."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
