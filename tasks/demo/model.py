"""The demo's base model: a tiny Llama trained from scratch on conversations of the demo's world.

It learns all styles of reply, good ones among many bad ones, so it speaks its world fluently and is
good now and then by chance: what preference training then has to bring out.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tasks.core.log import progress
from tasks.core.params import check
from tasks.demo.replies import GOOD, draw_fault, draw_reply
from tasks.demo.vocabulary import encode_conversation, train_tokenizer
from tasks.demo.world import draw_case

_TOKENIZER_TEXTS = 2000
_HELD_OUT = 256
_WARM_UP = 0.05
_POOL = 20


@dataclasses.dataclass(frozen=True)
class DemoModelConfig:
    """How large the demo's base model is and how long it trains (params section `base.demo`)."""

    vocabulary: int = 1024
    hidden: int = 160
    intermediate: int = 640
    layers: int = 2
    heads: int = 8
    steps: int = 500
    conversations_per_step: int = 12
    learning_rate: float = 6e-3
    good_share: float = 0.10
    seed: int = 11
    init: float = 0.06
    easy: float = 0.35
    prompt_loss: bool = False

    def __post_init__(self) -> None:
        check(300 <= self.vocabulary <= 4000, "base.demo.vocabulary", self.vocabulary, "choose 300 to 4000")
        check(self.heads > 0 and self.hidden % (2 * self.heads) == 0, "base.demo.hidden", self.hidden, "")


def conversations(count: int, seed: str, good_share: float, easy: float = 0.0) -> Iterator[list[dict[str, str]]]:
    """Yield ``count`` conversations of one question and one reply; ``good_share`` of the replies are good."""
    rng = random.Random(seed)
    for i in range(count):
        case = draw_case(rng)
        style = GOOD if rng.random() < good_share else draw_fault(rng)
        if i < easy * count:
            style = rng.choices((GOOD, "curt", style), (40, 40, 20))[0]
        yield [
            {"role": "user", "content": case.message},
            {"role": "assistant", "content": draw_reply(case, style, rng)},
        ]


def train_demo_model(config: DemoModelConfig, folder: Path) -> dict[str, Any]:
    """Train tokenizer and model."""
    import torch

    total = config.steps * config.conversations_per_step
    talks = list(conversations(total, f"demo base {config.seed}", config.good_share, config.easy))
    texts = [message["content"] for talk in talks[-_TOKENIZER_TEXTS:] for message in talk]
    tokenizer = train_tokenizer(texts, config.vocabulary)
    rows = [encode_conversation(tokenizer, talk) for talk in talks]
    held_out = [
        encode_conversation(tokenizer, talk)
        for talk in conversations(_HELD_OUT, f"demo base held out {config.seed}", config.good_share)
    ]
    torch.manual_seed(config.seed)
    model = build_model(config, tokenizer)
    losses = fit(model, batches(rows, config.conversations_per_step, config.seed), config)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "loss": held_out_loss(model, held_out),
        "curve": losses,
        "tokens": sum(map(len, rows)),
    }


def build_model(config: DemoModelConfig, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True, initializer_range=config.init,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def batches(rows: Sequence[list[int]], size: int, seed: int) -> list[list[list[int]]]:
    rng = random.Random(f"demo batches {seed}")
    pools = [rows[start : start + size * _POOL] for start in range(0, len(rows), size * _POOL)]
    cut = []
    for pool in pools:
        ordered = sorted(pool, key=len)
        some = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        rng.shuffle(some)
        cut += some
    return cut


def fit(model: Any, plan: Sequence[Sequence[list[int]]], config: DemoModelConfig) -> list[float]:
    import torch
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(_WARM_UP * len(plan)), len(plan))
    losses = []
    model.train()
    for rows in progress(plan, "training the demo's base model", unit="step"):
        loss = _loss(model, rows, config.prompt_loss)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
    return losses


def _loss(model: Any, rows: Sequence[list[int]], prompt_loss: bool = False) -> Any:
    import torch

    pad = model.config.pad_token_id
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    labels = ids[:, 1:].clone()
    if not prompt_loss:
        for i, row in enumerate(rows):
            second = [k for k, x in enumerate(row) if x == 1][1]
            labels[i, : second + 2] = pad
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad)


def held_out_loss(model: Any, rows: Sequence[list[int]]) -> float:
    import torch

    model.eval()
    with torch.no_grad():
        return float(_loss(model, rows))
