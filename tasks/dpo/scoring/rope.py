"""Rotary positions that depend on how long a text is: every text gets its own, whatever stands in the row beside it.

transformers takes the longest text of a whole batch for all of it. `longrope` (Phi 3) has one set of frequencies for
texts up to the length that the base was first trained for, and another for longer ones: here each token gets those
that the length of its own text asks for, and a prompt whose completions end on either side stands in the row twice
(which what rows take is counted without). `dynamic` has a set of its own for every length beyond the limit: such
texts are refused.

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
    """Gives texts their own positions, by hooks on the modules that make them, until :meth:`close`.

    Args:
        model: A causal language model, bare or with adapters.

    Attributes:
        limit: Tokens beyond which a text has positions of another kind; None where all have the same.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._is_long_BL: Tensor | None = None
        limits = {module: _limits(module) for module in model.modules() if hasattr(module, "rope_type")}
        found = {pair for pairs in limits.values() for pair in pairs}
        self.limit = min((limit for _, limit in found), default=None)
        kinds = sorted({kind for kind, _ in found})
        # one limit, and one set of frequencies on either side of it
        is_known = kinds in ([], ["longrope"]) and len(found) < 2
        self._refused = "" if is_known else ", ".join(kinds)
        self._handles = [
            module.register_forward_hook(self._choose, with_kwargs=True)
            for module, pairs in limits.items()
            if pairs and is_known
        ]

    def follow(self, batch: Batch) -> None:
        """Make positions for this batch from now on."""
        self._is_long_BL = batch.is_long_BL

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def check(self, rows: Sequence[TokenRow]) -> None:
        """Refuse texts whose positions would depend on what they are scored beside.

        Raises:
            ConfigError: There is one.
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
        """Return cosines and sines, each [B, L, d], the short or the long ones by the token's own text."""
        if self._is_long_BL is None or self.limit is None:
            return result
        x, positions, *rest = (*args, options["position_ids"]) if "position_ids" in options else args
        others = {name: value for name, value in options.items() if name != "position_ids"}
        beyond = torch.full_like(positions[:, :1], self.limit)  # a place that makes any row a long one
        short = module.forward(x, positions.clamp(max=self.limit - 1), *rest, **others)
        long = module.forward(x, torch.cat([positions, beyond], 1), *rest, **others)
        is_long = self._is_long_BL[..., None]
        return tuple(torch.where(is_long, one[:, :-1], other) for one, other in zip(long, short, strict=True))


def _limits(module: Any) -> set[tuple[str, int]]:
    """Return the kinds of positions that depend on length among those of a module, each with its limit."""
    types, found = module.rope_type, set()
    for layers, kind in types.items() if isinstance(types, dict) else [("", types)]:
        if kind == "longrope":
            parameters = module.config.rope_parameters
            found.add((kind, int((parameters[layers] if layers else parameters)["original_max_position_embeddings"])))
        elif "dynamic" in kind:
            found.add((kind, int(module.original_max_seq_len)))
    return found
