"""The held-out prompts that are answered: read, chosen by hash, checked against the model's context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError, ConfigError, DataError
from tasks.core.files import read_json, read_manifest, sha256_bytes
from tasks.core.json_lines import read_json_lines

Row = dict[str, Any]


def read_prompts(tokens: Path) -> list[Row]:
    """Read the held-out prompts of `data/tokens/` in their order: `prompt_id`, `ids` and what else is said of each.

    Raises:
        ArtifactError: The file is missing or a line is not a prompt.
        DataError: It holds no prompt.
    """
    read_manifest(tokens, "encode")
    path = tokens / "prompts.jsonl"
    rows = list(read_json_lines(path, "encode", ("prompt_id", "ids")))
    if not rows:
        raise DataError(f"{path} holds no held-out prompt", "raise `ingest`'s test share, or add data")
    return rows


def read_end_tokens(tokens: Path) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer, from the template in `data/tokens/`.

    Raises:
        ArtifactError: The template names none.
    """
    eos_token_ids = tuple(read_json(tokens / "template.json").get("eos_token_ids") or ())
    if not eos_token_ids:
        raise ArtifactError("template.json of the tokens names no end token", "run `dvc repro -f encode`")
    return eos_token_ids


def choose_prompts(prompts: list[Row], most: int | None) -> list[Row]:
    """Keep at most ``most`` prompts, those whose id hashes lowest: more data then changes few. Their order is kept."""
    if most is None or len(prompts) <= most:
        return prompts
    ids = (row["prompt_id"] for row in prompts)
    kept = set(sorted(ids, key=lambda prompt_id: sha256_bytes(f"respond/{prompt_id}".encode()))[:most])
    return [row for row in prompts if row["prompt_id"] in kept]


def check_context(prompts: list[Row], context: int | None, max_new_tokens: int) -> None:
    """Refuse answers that are too long for the model's ``context`` behind the longest prompt.

    Raises:
        ConfigError: Naming the prompt.
    """
    longest = max(prompts, key=lambda row: len(row["ids"]))
    if context is not None and len(longest["ids"]) + max_new_tokens > context:
        raise ConfigError(
            f"prompt {longest['prompt_id']} has {len(longest['ids'])} tokens, and {max_new_tokens} new ones "
            f"do not fit the model's context of {context}",
            f"lower `encode.max_prompt_tokens` to at most {context - max_new_tokens}, or `respond.max_new_tokens`",
        )
