"""Tiny reward models for tests: made of a tiny base and its tokenizer, untrained or trained on pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}> {{ message.content }}{{ eos_token }}{% endfor %}"
)


def write_reward_model(folder: Path, tokenizer: Any, template: str | None = TEMPLATE, **config: Any) -> Path:
    """Write a random reward model of a few thousand parameters whose head is not zero."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    settings = {"vocab_size": len(tokenizer), "num_labels": 1, "max_position_embeddings": 512, **sizes, **ids, **config}
    model = LlamaForSequenceClassification(LlamaConfig(**settings))
    torch.nn.init.normal_(model.score.weight)
    model.save_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def reward_model_of_base(folder: Path, base: Path) -> Path:
    """Write a reward model that has a base's weights and an untrained head."""
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.zeros_(model.score.weight)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def train_reward_model(
    folder: Path, pairs: Sequence[dict[str, Any]], steps: int, batch: int = 8, rate: float = 3e-3
) -> None:
    """Train the reward model in a folder on pairs, by −log σ(r_chosen − r_rejected)."""
    torch.manual_seed(0)
    model = LlamaForSequenceClassification.from_pretrained(folder).train()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        rows = [pairs[(step * batch + i) % len(pairs)] for i in range(batch)]
        scores = [_scores(model, tokenizer, rows, name) for name in ("chosen", "rejected")]
        loss = -torch.nn.functional.logsigmoid(scores[0] - scores[1]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)


def messages_of(row: dict[str, Any]) -> list[dict[str, str]]:
    """The prompt of a pair as messages."""
    prompt = row["prompt"]
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _scores(model: Any, tokenizer: Any, rows: Sequence[dict[str, str]], name: str) -> torch.Tensor:
    """The score of each conversation's last token, float32 [B]."""
    texts = [
        tokenizer.apply_chat_template([*messages_of(row), {"role": "assistant", "content": row[name]}], tokenize=False)
        for row in rows
    ]
    ids = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][-400:]) for text in texts]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
    states = model.model(padded, attention_mask=mask).last_hidden_state
    last = torch.tensor([len(each) - 1 for each in ids])
    scores: torch.Tensor = model.score(states)[torch.arange(len(ids)), last, 0]
    return scores
