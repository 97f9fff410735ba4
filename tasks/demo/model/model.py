"""The demo's base model: a tiny Llama trained from scratch on the demo's conversations, in fp32 on the CPU.

It is trained on replies of all styles, few of them good: it writes fluently, and well only now and then, which
preference training has to bring out. The loss is that of the replies' tokens alone. The customer's words cannot be
predicted, and their noise kept the model from learning to look up product and name in the prompt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from tasks.core.section import Section, at_least, between
from tasks.demo.model.talks import corpus, held_out
from tasks.demo.model.vocabulary import MAX_TOKENS, Row, encode_talk, train_tokenizer
from tasks.telemetry.log import bar

_TOKENIZER_TALKS = 2000
_HELD_OUT_TALKS = 256
_THREADS = 1  # a part of the result: sums are split by thread, so another number rounds otherwise
_INITIAL_STD = 0.06  # transformers' 0.02 suits wide models; this narrow one learns sooner from 1/√hidden or so
_WARM_UP = 0.05  # share of the steps
_POOL_STEPS = 20  # batches of like length are cut out of so many steps' conversations


@dataclasses.dataclass(frozen=True)
class DemoModelConfig(Section, path="demo_model"):
    """How large the demo's base model is and how long it trains; no params, for the demo has one size.

    Attributes:
        vocabulary: Most tokens of its tokenizer.
        hidden: Width of the residual stream.
        intermediate: Width inside the feed-forward layers.
        layers: Number of layers.
        heads: Attention heads of a layer.
        steps: Optimizer steps.
        talks_per_step: Conversations in one step, each read once.
        learning_rate: Peak step size of AdamW.
        good_share: Share of good replies among the styles that it reads; the rest has faults, which leaves something
            to prefer.
        seed: Of the text and of the first weights.
    """

    vocabulary: Annotated[int, at_least(300, "for bytes take 256")] = 1024
    hidden: Annotated[int, at_least(1)] = 160
    intermediate: Annotated[int, at_least(1)] = 672
    layers: Annotated[int, at_least(1)] = 2
    heads: Annotated[int, at_least(1)] = 8
    steps: Annotated[int, at_least(1)] = 450
    talks_per_step: Annotated[int, at_least(1)] = 12
    learning_rate: Annotated[float, between(0, 1, "()")] = 3e-3
    good_share: Annotated[float, between(0, 1)] = 0.07
    seed: int = 11

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.hidden % (2 * self.heads) == 0, "hidden", "write an even multiple of `heads`")


@dataclasses.dataclass(frozen=True)
class DemoTraining:
    """What training the demo model gave: the loss on held-out conversations and on each step (nats a token)."""

    loss: float
    losses: list[float]
    tokens: int


def train_demo_model(config: DemoModelConfig, folder: Path) -> DemoTraining:
    """Train tokenizer and model from scratch and write both to ``folder`` in transformers' format.

    The same config gives the same bytes on machines with the same kind of processor.
    """
    import torch
    from transformers.utils import logging

    talks = list(corpus(config.steps * config.talks_per_step, config.good_share, config.seed))
    apart = list(held_out(_HELD_OUT_TALKS, config.good_share, config.seed))
    texts = [message["content"] for talk in talks[-_TOKENIZER_TALKS:] for message in talk]
    tokenizer = train_tokenizer(texts, config.vocabulary)
    rows = [encode_talk(tokenizer, talk) for talk in talks]
    with _fixed_threads():
        torch.manual_seed(config.seed)
        model = build_model(config, tokenizer)
        losses = fit(model, cut_batches(rows, config.talks_per_step, config.seed), config.learning_rate)
        loss = mean_loss(model, [encode_talk(tokenizer, talk) for talk in apart])
    logging.disable_progress_bar()
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    model.save_pretrained(folder)
    return DemoTraining(loss, losses, sum(map(len, rows)))


def build_model(config: DemoModelConfig, tokenizer: Any) -> Any:
    """Return a Llama with fresh weights; torch's global seed decides them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=_INITIAL_STD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(shape)


def cut_batches(rows: Sequence[Row], size: int, seed: int) -> list[list[Row]]:
    """Cut ``rows`` into batches of ``size`` with little padding, nearly in their order.

    Rows are sorted by length within pools of some steps, and the batches of a pool are shuffled.
    """
    rng = random.Random(f"demo batches {seed}")
    batches: list[list[Row]] = []
    for start in range(0, len(rows), size * _POOL_STEPS):
        pool = sorted(rows[start : start + size * _POOL_STEPS], key=len)
        cut = [pool[first : first + size] for first in range(0, len(pool), size)]
        rng.shuffle(cut)
        batches += cut
    return batches


def fit(model: Any, batches: Sequence[Sequence[Row]], learning_rate: float) -> list[float]:
    """Train ``model`` on each batch once with AdamW and a cosine schedule; return the loss of each step."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_peak(step, len(batches)))
    losses = []
    model.train()
    with bar("training the demo's base model", total=len(batches), unit="step") as shown:
        for rows in batches:
            loss = _batch_loss(model, rows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            losses.append(loss.item())
            shown.update()
    return losses


def mean_loss(model: Any, rows: Sequence[Row]) -> float:
    """Return the mean loss on the replies of ``rows``, in nats a token."""
    import torch

    model.eval()
    with torch.inference_mode():
        return float(_batch_loss(model, rows))


def _share_of_peak(step: int, steps: int) -> float:
    """The learning rate at ``step`` over its peak: a linear rise, then half a cosine down to nothing."""
    rise = max(1, round(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _batch_loss(model: Any, rows: Sequence[Row]) -> Any:
    """Mean cross-entropy over the tokens of the replies; only their positions meet the LM head.

    Rows are padded on the right, where causal attention never looks back from, so no mask is needed.
    """
    import torch

    width = max(map(len, rows))
    pad = model.config.pad_token_id
    ids = torch.tensor([row.prompt + row.reply + [pad] * (width - len(row)) for row in rows])  # [rows, width]
    place = torch.arange(1, width)  # of the token that is predicted
    starts = torch.tensor([[len(row.prompt)] for row in rows])
    ends = torch.tensor([[len(row)] for row in rows])
    is_reply = (place >= starts) & (place < ends)  # [rows, width - 1]
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[is_reply]  # [tokens, hidden]
    return torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][is_reply])


@contextlib.contextmanager
def _fixed_threads() -> Iterator[None]:
    """Compute with `_THREADS` threads, and give the process its own number back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)
