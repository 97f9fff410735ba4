"""How far the policy has moved from its base: KL(π‖π_ref), in nats, estimated on the policy's own answers.

For an answer y to a prompt x, Σ_t log π(y_t|x, y_<t) − log π_ref(y_t|x, y_<t) is taken over the tokens that were drawn:
the end token, or those of a stop string, are among them where the answer ended so. π_ref is the same model with its
adapter off. Both are taken at temperature 1, without top-k, top-p or repetition penalty. So where answers are drawn
in that way too, the mean is an unbiased estimate of the KL divergence of answers of at most
`respond.max_new_tokens` tokens; where they are drawn otherwise, it tells the divergence's size.

Shape suffixes: B rows, L tokens of a row, N drawn tokens, H hidden size.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tasks.dpo.generation.questions import Questions
from tasks.dpo.generation.sides import switched_to
from tasks.dpo.model import sharding
from tasks.dpo.model.anatomy import bare_model, body_of
from tasks.dpo.model.distributed import turns_behind
from tasks.dpo.model.threads import suited_threads
from tasks.dpo.scoring.head import scores_of
from tasks.dpo.scoring.self_test import choose_head, random_rows

Key = tuple[str, int]  # a prompt's id and a sample
_HEAD_TOKENS = 256  # whose logits exist at once
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

    Answers are scored in the batches of the questions, which are the same on any number of ranks; so a forward holds
    no more than `respond.batch_tokens` padded tokens. Ranks that share a model call it together.

    Args:
        policy: A PEFT model, policy and reference in one.
        questions: What was asked.
        drawn: The tokens drawn for each answer; all answers of a batch of questions, or none.
    """
    batches = [
        [((one.prompt_id, one.sample), one.ids, tuple(drawn[one.prompt_id, one.sample])) for one in batch]
        for batch in questions.batches()
        if (batch[0].prompt_id, batch[0].sample) in drawn
    ]
    idle = turns_behind(len(batches)) if sharding.is_sharded(policy) else 0
    ratios: dict[Key, LogRatio] = {}
    with torch.inference_mode(), suited_threads(policy):
        scorer = _AnswerScorer(policy)
        for batch in batches:
            texts = [(prompt, answer) for _, prompt, answer in batch]
            on = scorer.logps(texts)
            with switched_to(policy, "reference"):
                off = scorer.logps(texts)
            for (key, _, answer), nats in zip(batch, (on - off).tolist(), strict=True):
                ratios[key] = LogRatio(nats, len(answer))
        for _ in range(2 * idle):  # all-gather is collective: ranks with fewer batches run dummy ones
            scorer.logps([((0,), (0,))])
    return ratios


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


class _AnswerScorer:
    """Scores drawn tokens without ever holding the logits of many.

    Args:
        model: A causal language model with its adapters.
    """

    def __init__(self, model: Any) -> None:
        self._model, inner = model, bare_model(model)
        self._body: Any = body_of(inner)
        self._head = choose_head(model, random_rows(inner.get_input_embeddings().weight.shape[0]), two_products=True)
        # such positions depend on the longest text of a batch
        kinds = {str(getattr(module, "rope_type", "")) for module in model.modules()}
        self._is_alone = self._head is None or any("dynamic" in kind or "longrope" in kind for kind in kinds)

    def logps(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
        """Return the log-probability of each text's second part behind its first, float64 [texts]."""
        groups = [[text] for text in texts] if self._is_alone else [texts]
        return torch.cat([self._logps(group) for group in groups])

    def _logps(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
        device = self._model.device
        # padded on the right: in a causal model no token sees a later one, so no mask is needed
        ids_BL = pad_sequence([torch.tensor([*first, *second]) for first, second in texts], batch_first=True).to(device)
        places = [
            (row, len(first) - 1 + step)
            for row, (first, second) in enumerate(texts)
            for step in range(len(second))
        ]
        row_N, source_N = torch.tensor(places, device=device).unbind(dim=1)
        logp_N = self._token_logps(ids_BL, row_N, source_N)
        sums = torch.zeros(len(texts), dtype=torch.float64, device=device)
        return sums.index_add(0, row_N, logp_N.double()).cpu()

    def _token_logps(self, ids_BL: Tensor, row_N: Tensor, source_N: Tensor) -> Tensor:
        """Return the log-probability of each token behind a place of a row, float32 [N]."""
        label_N = ids_BL[row_N, source_N + 1]
        if self._head is None:
            logits_BLV = self._model(input_ids=ids_BL, use_cache=False).logits
            return scores_of(logits_BLV[row_N, source_N], label_N, with_collision=False).logp_N
        hidden_BLH = self._body(input_ids=ids_BL, use_cache=False).last_hidden_state
        parts = zip(hidden_BLH[row_N, source_N].split(_HEAD_TOKENS), label_N.split(_HEAD_TOKENS), strict=True)
        return torch.cat([self._head.score(hidden_CH, label_C).logp_N for hidden_CH, label_C in parts])
