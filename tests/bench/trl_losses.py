"""TRL's loss and ours on one tiny random model and the same pairs: two programs, one number and its gradients.

TRL's side is its public trainer: its own dataset preparation, collator, fused head and `compute_loss`. Ours
takes the tokens that TRL made, scores them by a plain log-softmax in float64 sums, and asks ``PairLoss``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.dpo.objective.losses import length_desensitised_weights
from tasks.dpo.objective.pair_loss import ObjectiveConfig, PairLoss, PairScores

VOCABULARY = 61
DIVERGENCES = {
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "js": "js_divergence",
    "alpha": "alpha_divergence",
}
Side = tuple[float, Tensor]


def words(count: int, seed: int) -> str:
    """Return ``count`` random words of the vocabulary."""
    numbers = torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))
    return " ".join(f"w{number}" for number in numbers.tolist())


LENGTHS = [(4, 3, 9), (6, 8, 2), (3, 5, 5), (5, 1, 12), (2, 7, 6), (9, 10, 4)]
PAIRS = [
    {"prompt": words(p, 3 * i), "chosen": " " + words(c, 3 * i + 1), "rejected": " " + words(r, 3 * i + 2)}
    for i, (p, c, r) in enumerate(LENGTHS)
]


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one word a token."""
    names = {name: i for i, name in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(3, VOCABULARY))])}
    model = Tokenizer(WordLevel(names, unk_token="<pad>"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def model(seed: int, spread: float = 0.3) -> Any:
    """Return a random Llama; another seed is another policy, ``spread`` how far apart two are."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=spread,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def trl_side(
    config: ObjectiveConfig, folder: Path, spread: float, backward: bool = True
) -> tuple[Side, dict[str, Tensor]]:
    """Return TRL's loss and flat gradient, and the batch that it was made of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from trl import DPOConfig, DPOTrainer

        mix = dict(config.mix) | ({"sft": config.nll_weight} if config.nll_weight else {})
        args = DPOConfig(
            output_dir=str(folder),
            loss_type=list(mix),
            loss_weights=list(mix.values()),
            beta=config.beta,
            label_smoothing=config.label_smoothing,
            f_divergence_type=DIVERGENCES[config.divergence],
            f_alpha_divergence_coef=config.divergence_alpha,
            ld_alpha=config.ld_alpha if config.ld_alpha < 1 else None,
            use_weighting=config.wpo,
            discopop_tau=config.discopop_tau,
            per_device_train_batch_size=len(PAIRS),
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
        )
        policy, reference = model(1, spread), model(2, spread)
        trainer = DPOTrainer(
            policy, reference, args, train_dataset=Dataset.from_list(PAIRS), processing_class=tokenizer()
        )
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(trainer.model, batch)
    if backward:
        loss.backward()
    return (loss.item(), flat_gradient(policy)), batch


def our_side(config: ObjectiveConfig, batch: dict[str, Tensor], spread: float) -> Side:
    """Return our loss over TRL's batch and its flat gradient."""
    policy, reference = model(1, spread), model(2, spread)
    scores, nll = scores_of(config, policy, reference, batch)
    loss = PairLoss(config)
    losses, _ = loss.losses(scores, loss.state0())
    total = losses.mean() + loss.nll_weight * nll
    total.backward()
    return total.item(), flat_gradient(policy)


def scores_of(
    config: ObjectiveConfig, policy: Any, reference: Any, batch: dict[str, Tensor]
) -> tuple[PairScores, Tensor]:
    """Return the sums that our losses take, and the token mean of the chosen completions' -log π."""
    ids, mask = batch["input_ids"], batch["completion_mask"][:, 1:].bool()
    pairs = len(ids) // 2
    order = torch.stack([torch.arange(pairs), torch.arange(pairs) + pairs], dim=1).reshape(-1)  # TRL: chosen first
    ids, mask = ids[order], mask[order]
    tokens = mask.sum(dim=1)
    weights = torch.zeros(mask.shape, dtype=torch.float64)
    weights[mask] = length_desensitised_weights(tokens, config.ld_alpha)
    full = torch.log_softmax(policy(ids, attention_mask=batch["attention_mask"][order]).logits[:, :-1], dim=-1)
    with torch.no_grad():
        other = torch.log_softmax(reference(ids, attention_mask=batch["attention_mask"][order]).logits[:, :-1], dim=-1)
    own, held = (logps.gather(-1, ids[:, 1:, None]).squeeze(-1).double() for logps in (full, other))
    adjusted = ((own - torch.logsumexp(2 * full.double(), dim=-1)) * mask).sum(dim=1) / tokens
    sums = [(weights * logps).sum(dim=1).view(-1, 2) for logps in (own, held)]
    nll = -own[0::2][mask[0::2]].mean()
    columns = [sums[0], sums[1], tokens.double().view(-1, 2), adjusted.detach().view(-1, 2)]
    (pw, pl), (rw, rl), (cw, cl), (aw, al) = (column.unbind(dim=1) for column in columns)
    return PairScores(pw, pl, rw, rl, cw, cl, wpo_chosen=aw, wpo_rejected=al), nll


def flat_gradient(policy: Any) -> Tensor:
    """Return the gradients of all parameters as one vector."""
    return torch.cat(
        [p.grad.reshape(-1).double() for p in policy.parameters() if p.grad is not None] or [torch.zeros(0)]
    )


def gap(config: ObjectiveConfig, folder: Path, spread: float = 0.3) -> tuple[float, float]:
    """Return how far the two sides are apart: of the losses, and of the gradients relative to their length."""
    (their_loss, theirs), batch = trl_side(config, folder, spread)
    our_loss, ours = our_side(config, batch, spread)
    return abs(their_loss - our_loss) / max(1.0, abs(their_loss)), float((theirs - ours).norm() / theirs.norm())
