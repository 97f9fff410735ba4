"""Rotary positions that depend on a text's length: every text gets its own, whatever else is in the batch.

transformers applies the length of a batch's longest text to the whole batch. `longrope` (Phi 3) has one set of
frequencies for texts up to the length that the base was first trained for, and another for longer ones. Here each
token gets the frequencies for its own text's length, and a prompt with one completion on either side of the limit
stands in the row twice (the count of a row's tokens leaves that out). `dynamic` has other frequencies for every length
beyond the limit: such texts are refused.

Shape suffixes: B rows, L tokens of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.core.errors import ConfigError
from tasks.dpo.scoring.layout import Batch, length_of_longest
from tasks.pairs.tokens.token_cache import TokenRow


class Ropes:
    """Gives every text its own positions, by hooks on the modules that compute them, until :meth:`close`.

    Args:
        model: A causal language model, bare or with adapters.

    Attributes:
        limit: Tokens beyond which a text has positions of another kind; None where all have the same.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._is_long_BL: Tensor | None = None
        limits = {module: _limits(module) for module in model.modules() if hasattr(module, "rope_type")}
        kinds_and_limits = {pair for pairs in limits.values() for pair in pairs}
        self.limit = min((limit for _, limit in kinds_and_limits), default=None)

        # supported is one limit, with one set of frequencies on either side of it
        kinds = sorted({kind for kind, _ in kinds_and_limits})
        is_known = kinds in ([], ["longrope"]) and len(kinds_and_limits) < 2
        self._refused = "" if is_known else ", ".join(kinds)
        self._handles = [
            module.register_forward_hook(self._choose, with_kwargs=True)
            for module, pairs in limits.items()
            if pairs and is_known
        ]

    def follow(self, batch: Batch) -> None:
        """Set the batch whose positions are computed."""
        self._is_long_BL = batch.is_long_BL

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def check(self, rows: Sequence[TokenRow]) -> None:
        """Refuse texts whose positions would depend on the rest of the batch.

        Raises:
            ConfigError: A text exceeds the limit, and the frequencies of longer texts depend on their length.
        """
        if self.limit is None or not self._refused or (longest := length_of_longest(rows)) <= self.limit:
            return
        raise ConfigError(
            f"the base's positions (`{self._refused}`) change with the length of every text beyond {self.limit:,} "
            f"tokens, and one has {longest:,}",
            "lower `encode.max_prompt_tokens` and `encode.max_completion_tokens`, so that they add up to "
            f"{self.limit:,} at most",
        )

    def _choose(self, module: Any, args: tuple[Any, ...], options: dict[str, Any], result: Any) -> Any:
        """Return cosines and sines, each [B, L, d]: for each token the short or the long ones, by its text's length."""
        if self._is_long_BL is None or self.limit is None:
            return result
        x, positions, *rest = (*args, options["position_ids"]) if "position_ids" in options else args
        others = {name: value for name, value in options.items() if name != "position_ids"}

        beyond = torch.full_like(positions[:, :1], self.limit)  # a position that makes any row a long one
        short = module.forward(x, positions.clamp(max=self.limit - 1), *rest, **others)
        long = module.forward(x, torch.cat([positions, beyond], 1), *rest, **others)
        is_long = self._is_long_BL[..., None]
        return tuple(torch.where(is_long, one[:, :-1], other) for one, other in zip(long, short, strict=True))


def _limits(module: Any) -> set[tuple[str, int]]:
    """Return a module's kinds of positions that depend on length, each with its limit."""
    types, kinds_and_limits = module.rope_type, set()
    for layers, kind in types.items() if isinstance(types, dict) else [("", types)]:
        if kind == "longrope":
            parameters = module.config.rope_parameters
            limit = (parameters[layers] if layers else parameters)["original_max_position_embeddings"]
            kinds_and_limits.add((kind, int(limit)))
        elif "dynamic" in kind:
            kinds_and_limits.add((kind, int(module.original_max_seq_len)))
    return kinds_and_limits
