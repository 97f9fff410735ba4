"""The `respond` section of params.yaml."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from tasks.core.section import Section, above, at_least, between, filled
from tasks.dpo.generation.questions import Sampling
from tasks.dpo.generation.server import ServerConfig
from tasks.telemetry import log

_OFFERED = ("temperature", "top_p", "top_k", "repetition_penalty")
_log = log.get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class RespondConfig(Section, path="respond"):
    """How the held-out prompts are answered.

    Attributes:
        max_prompts: Answer only so many prompts, chosen by a hash of their id; None answers all.
        samples_per_prompt: Answers of each side to each prompt.
        temperature: Divides the logits before drawing; 0 takes the likeliest token each time.
        top_p: Draw among the likeliest tokens that together reach this probability.
        max_new_tokens: Tokens after which an answer is cut.
        batch_tokens: Padded tokens (prompt and answer) of a batch; part of the result, as rounding is.
        seed: Of all draws.
        champion: Version of the registry that answers, too: `registry:NAME@DIGEST`; None for none.
        top_k: Draw among so many likeliest tokens; None among all.
        repetition_penalty: Makes tokens that stand in the prompt or in the answer so far less likely above 1.
        prompt_sets: Files of prompts that are answered beside the held-out ones, by the name of their set.
        server: Answers in place of this machine; None to answer here.
        stop: Texts at which an answer ends; `auto`: the marks of turns that a template writes without end tokens.
    """

    REMOVED: ClassVar[Mapping[str, str]] = {
        "do_sample": "delete it: `temperature: 0` takes the likeliest token each time, above 0 draws"
    }

    max_prompts: Annotated[int, at_least(1)] | None
    samples_per_prompt: Annotated[int, at_least(1)]
    temperature: Annotated[float, at_least(0)]
    top_p: Annotated[float, between(0, 1, "(]")]
    max_new_tokens: Annotated[int, at_least(1)]
    batch_tokens: Annotated[int, at_least(1)]
    seed: int
    champion: str | None = None
    top_k: Annotated[int, at_least(1)] | None = None
    repetition_penalty: Annotated[float, above(0)] = 1.0
    prompt_sets: dict[str, str] = dataclasses.field(default_factory=dict)
    server: ServerConfig | None = None
    stop: Literal["auto"] | tuple[Annotated[str, filled("write the text at which an answer ends")], ...] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        is_useful = self.temperature > 0 or self.samples_per_prompt == 1
        advice = "at `respond.temperature: 0` all samples of a prompt are the same: write 1"
        self.require(is_useful, "samples_per_prompt", advice)

    def sampling(self, eos_token_ids: tuple[int, ...]) -> Sampling:
        """Return how answers are drawn; any of ``eos_token_ids`` ends one."""
        drawn = self.temperature, self.top_p, self.max_new_tokens
        return Sampling(*drawn, eos_token_ids, self.seed, self.top_k, self.repetition_penalty)


def tell_of_sampling(
    config: RespondConfig, generation: Mapping[str, Any], ends: Sequence[str], stop: Sequence[str]
) -> None:
    """Log where answers end, and what the base's own generation config (``generation``) has in place of settings."""
    texts = f", and at the texts {', '.join(map(repr, stop))}" if stop else ""
    _log.info("answers end at %s%s", ", ".join(map(repr, ends)), texts)
    offered = {name: generation[name] for name in _OFFERED if generation.get(name)}
    settings = ", ".join(f"{name}: {value}" for name, value in offered.items() if value != getattr(config, name))
    if settings:
        _log.info("the base's generation_config.json has %s: write that under `respond` to answer so", settings)
