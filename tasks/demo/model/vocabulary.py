"""The demo's tokenizer: a byte-level BPE trained on the demo's own text, with a ChatML template."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""A turn is ``<|im_start|>role⏎content<|im_end|>⏎``; ``<|im_end|>`` is the EOS token."""

MAX_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class Row:
    """A conversation as token ids: the prompt, up to where the reply begins, and the reply with its EOS."""

    prompt: list[int]
    reply: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.reply)


def train_tokenizer(texts: Sequence[str], size: int) -> Any:
    """Train the tokenizer on ``texts``; the same texts give the same tokenizer.

    Args:
        texts: Plain text of the world, without special tokens.
        size: Most tokens, the 256 bytes and three special tokens among them.

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
    roles = ["system", "user", "assistant"] * len(texts)
    tokenizer.train_from_iterator([*texts, *roles], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_TOKENS,
    )


def encode_talk(tokenizer: Any, talk: Sequence[dict[str, str]]) -> Row:
    """Return the token ids of a conversation whose last turn is the reply, through the chat template."""
    prompt = tokenizer.apply_chat_template(talk[:-1], tokenize=False, add_generation_prompt=True)
    reply = talk[-1]["content"] + END
    return Row(_ids(tokenizer, prompt), _ids(tokenizer, reply))


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
