"""Rows of the token cache as text: the prompt, the boundary behind it, and the replies, which the loss sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.pairs.tokens.token_cache import open_tokens

_DIM, _GREEN, _RED, _PLAIN = "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m"
BOUNDARY = "|"


def show_rows(tokens: Path, tokenizer: Any, count: int, in_colour: bool) -> Iterator[str]:
    """Yield the first ``count`` training rows as lines, line feeds within them written as backslash n.

    Args:
        tokens: What the encode stage wrote.
        tokenizer: The base's.
        count: How many rows; fewer where the cache holds fewer.
        in_colour: Dim what the loss does not see; green is chosen, red rejected.

    Raises:
        ArtifactError: The cache is missing or damaged.
    """

    def part(ids: Any, colour: str) -> str:
        text = tokenizer.decode([int(i) for i in ids], skip_special_tokens=False).replace("\n", "\\n")
        return f"{colour}{text}{_PLAIN}" if in_colour else text

    pairs = open_tokens(tokens, "train")
    for i in range(min(count, len(pairs))):
        row = pairs.row(i)
        sizes = f"prompt {len(row.prompt)}, chosen {len(row.chosen)}, rejected {len(row.rejected)} tokens"
        yield f"pair {pairs.pair_ids[i].decode()}: {sizes}; the loss sees what stands behind {BOUNDARY}"
        for name, reply, colour in (("chosen", row.chosen, _GREEN), ("rejected", row.rejected, _RED)):
            yield f"  {name:<9}{part(row.prompt, _DIM)}{BOUNDARY}{part(reply, colour)}"
