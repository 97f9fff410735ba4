"""Who computes the answers: a model on this machine, or a server; each also measures what the adapter does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tasks.core.base_model import BaseModel
from tasks.dpo.generation.answering import answer, answer_by_model, gather_on_main, plan_parts
from tasks.dpo.generation.held_out import Row, check_context, choose_prompts
from tasks.dpo.generation.questions import Questions
from tasks.dpo.generation.server import Server, ServerConfig
from tasks.dpo.generation.sides import max_abs_delta_logit
from tasks.dpo.model import sharding

GUARD_PROMPTS = 8  # on which the adapter's effect is measured


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a run asks.

    Attributes:
        prompts: All prompts, in order.
        added: Those of them that `respond.prompt_sets` adds.
        questions: What is asked with the prompts.
    """

    prompts: list[Row]
    added: list[Row]
    questions: Questions

    @property
    def probes(self) -> list[list[int]]:
        """The tokens of the prompts on which the adapter's effect is measured."""
        return [row["ids"] for row in choose_prompts(self.prompts, GUARD_PROMPTS)]


def ask_model(policy: Any, base: BaseModel, asked: Asked, work: Path) -> tuple[list[Row] | None, float]:
    """Return the answers of a model on this machine, on rank 0 alone, and how far the adapter moves its logits.

    Raises:
        ConfigError: `respond.max_new_tokens` does not fit the model's context behind some prompt.
    """
    new_tokens = asked.questions.sampling.max_new_tokens
    check_context(asked.prompts, getattr(policy.config, "max_position_embeddings", None), new_tokens)
    rows = gather_on_main(answer_by_model(policy, asked.questions, base.load_tokenizer(), work))
    if rows is None and not sharding.is_sharded(policy):  # a forward pass of a sharded model takes all ranks
        return None, 0.0
    return rows, max_abs_delta_logit(policy, asked.probes)


def ask_server(config: ServerConfig, base: BaseModel, asked: Asked, work: Path) -> tuple[list[Row] | None, float]:
    """Return the answers of a server, on rank 0 alone, and how far the adapter moves log-probabilities there.

    Raises:
        ConfigError: The server refuses a request, or does not apply the adapter.
        NetworkError: It does not answer.
    """
    tokenizer = base.load_tokenizer()
    server = Server(config, asked.questions, tokenizer)
    delta = server.max_abs_delta_logp(asked.probes)
    return gather_on_main(answer(plan_parts(asked.questions), server.answers_of, tokenizer, work)), delta
