"""How far the policy has moved from its base: KL(π‖π_ref), in nats, estimated on the policy's own answers.

For an answer y to a prompt x, Σ_t log π(y_t|x, y_<t) − log π_ref(y_t|x, y_<t) is taken over the tokens that were drawn:
the end token, or those of a stop string, are among them where the answer ended so. π_ref is the same model with its
adapter off. Both are taken at temperature 1, without top-k, top-p or repetition penalty. So where answers are drawn
in that way too, the mean is an unbiased estimate of the KL divergence of answers of at most
`respond.max_new_tokens` tokens; where they are drawn otherwise, it tells the divergence's size.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tasks.dpo.generation.questions import Questions, Request
from tasks.dpo.generation.sides import switched_to
from tasks.dpo.model import sharding
from tasks.dpo.model.distributed import turns_behind
from tasks.dpo.model.threads import suited_threads
from tasks.dpo.scoring.scorer import Scorer, sum_by_branch
from tasks.pairs.tokens.token_cache import TokenRow

Key = tuple[str, int]  # a prompt's id and a sample
_GROUPS = 8  # of a batch: whole texts with their logits then need less memory than the batch's keys and values did
_DIGITS = 4  # significant ones: more would depend on which answers share a batch


@dataclasses.dataclass(frozen=True)
class LogRatio:
    """What one answer tells of the distance.

    Attributes:
        nats: log π(y|x) − log π_ref(y|x).
        tokens: Tokens drawn for it.
    """

    nats: float
    tokens: int


def log_ratios(policy: Any, questions: Questions, drawn: Mapping[Key, Sequence[int]]) -> dict[Key, LogRatio]:
    """Return the log-ratio of each answer of the policy that this rank holds.

    Answers are scored as training scores them, in groups of the batches of the questions, which are the same on any
    number of ranks. Ranks that share a model call it together.

    Args:
        policy: A PEFT model, policy and reference in one.
        questions: What was asked.
        drawn: The tokens drawn for each answer; all answers of a batch of questions, or none.
    """
    batches = [batch for batch in questions.batches() if (batch[0].prompt_id, batch[0].sample) in drawn]
    groups = [group for batch in batches for group in _groups(batch, drawn)]
    idle = turns_behind(len(groups)) if sharding.is_sharded(policy) else 0
    ratios: dict[Key, LogRatio] = {}
    with torch.inference_mode(), suited_threads(policy), Scorer(policy) as scorer:
        for group in groups:
            nats = _nats(scorer, [row for _, row in group])
            for (key, row), value in zip(group, nats, strict=True):
                ratios[key] = LogRatio(value, len(row.chosen))
        for _ in range(idle):  # all-gather is collective: ranks with fewer groups run dummy ones
            _nats(scorer, [_row((0,), (0,))])
    return ratios


def _groups(batch: Sequence[Request], drawn: Mapping[Key, Sequence[int]]) -> list[list[tuple[Key, TokenRow]]]:
    """Return the answers to a batch of questions, longest first, in groups that are scored in one forward each."""
    keys = [(request.prompt_id, request.sample) for request in batch]
    rows = [(key, _row(request.ids, drawn[key])) for key, request in zip(keys, batch, strict=True)]
    rows.sort(key=lambda item: (-len(item[1].prompt) - len(item[1].chosen), item[0]))
    size = -(-len(rows) // _GROUPS)
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _row(prompt: Sequence[int], answer: Sequence[int]) -> TokenRow:
    """Return an answer as the chosen one of a pair; the rejected one, a single token, adds none to a shared row."""
    return TokenRow(*(np.array(ids, dtype=np.int32) for ids in (prompt, answer, answer[:1])))


def _nats(scorer: Scorer, rows: Sequence[TokenRow]) -> list[float]:
    """Return log π − log π_ref of each row's chosen answer."""
    batch = scorer.lay_out(rows)
    on, _ = sum_by_branch(scorer.logps(batch), batch)
    with switched_to(scorer.model, "reference"):
        off, _ = sum_by_branch(scorer.logps(batch), batch)
    return [float(value) for value in on - off]


def kl_to_base(ratios: Mapping[Key, LogRatio]) -> dict[str, float | None]:
    """Return the estimate: `per_answer` and its standard error `per_answer_se`, and `per_token`, in nats.

    The unit is the prompt: the samples of each are averaged first. With one prompt there is no standard error.
    ``per_token`` divides by the mean number of tokens drawn for an answer.
    """
    by_prompt = itertools.groupby(sorted(ratios), key=lambda key: key[0])
    of_prompts = [[ratios[key] for key in keys] for _, keys in by_prompt]
    means = [statistics.fmean(ratio.nats for ratio in samples) for samples in of_prompts]
    tokens = statistics.fmean(statistics.fmean(ratio.tokens for ratio in samples) for samples in of_prompts)
    per_answer = statistics.fmean(means)
    se = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    values = {"per_answer": per_answer, "per_answer_se": se, "per_token": per_answer / tokens}
    return {name: None if value is None else float(f"{value:.{_DIGITS}g}") for name, value in values.items()}
