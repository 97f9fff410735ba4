"""Who computes the answers: a model on this machine, or a server; each also measures what the adapter does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tasks.core.base_model import BaseModel
from tasks.dpo.generation.answering import answer, answer_by_model, gather_on_main, plan_parts, take_drawn
from tasks.dpo.generation.held_out import Row, check_context, choose_prompts
from tasks.dpo.generation.kl_to_base import kl_to_base
from tasks.dpo.generation.questions import Questions
from tasks.dpo.generation.server import Server, ServerConfig
from tasks.dpo.generation.sides import max_abs_delta_logit
from tasks.dpo.model import sharding
from tasks.telemetry import log

_log = log.get_logger(__name__)
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


@dataclasses.dataclass(frozen=True)
class AdapterEffect:
    """What the adapter does to the model.

    Attributes:
        max_abs_delta: How far it moves a logit, or a log-probability on a server.
        kl: The KL divergence to the base (:func:`~tasks.dpo.generation.kl_to_base.kl_to_base`); None if not measured.
    """

    max_abs_delta: float
    kl: dict[str, float | None] | None = None


def ask_model(policy: Any, base: BaseModel, asked: Asked, work: Path) -> tuple[list[Row] | None, AdapterEffect]:
    """Return the answers of a model on this machine, on rank 0 alone, and what the adapter does to it.

    Raises:
        ConfigError: `respond.max_new_tokens` does not fit the model's context behind some prompt.
    """
    new_tokens = asked.questions.sampling.max_new_tokens
    check_context(asked.prompts, getattr(policy.config, "max_position_embeddings", None), new_tokens)
    rows_of_rank, ratios_of_rank = answer_by_model(policy, asked.questions, base.load_tokenizer(), work)
    rows, ratios = gather_on_main(rows_of_rank), gather_on_main(list(ratios_of_rank.items()))
    if rows is None and not sharding.is_sharded(policy):  # a forward pass of a sharded model takes all ranks
        return None, AdapterEffect(0.0)
    return rows, AdapterEffect(max_abs_delta_logit(policy, asked.probes), kl_to_base(dict(ratios)) if ratios else None)


def ask_server(
    config: ServerConfig, base: BaseModel, asked: Asked, work: Path
) -> tuple[list[Row] | None, AdapterEffect]:
    """Return the answers of a server, on rank 0 alone, and how far the adapter moves log-probabilities there.

    The KL divergence is not measured: it takes a forward pass over the answers, with and without the adapter.

    Raises:
        ConfigError: The server refuses a request, or does not apply the adapter.
        NetworkError: It does not answer.
    """
    tokenizer = base.load_tokenizer()
    server = Server(config, asked.questions, tokenizer)
    delta = server.max_abs_delta_logp(asked.probes)
    rows = answer(plan_parts(asked.questions), server.answers_of, tokenizer, work)
    take_drawn(rows)
    _log.info("the KL divergence to the base is not measured: a server answers, and no policy is loaded here")
    return gather_on_main(rows), AdapterEffect(delta)
