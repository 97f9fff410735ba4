"""What the judge took, calls, tokens and cost, from the receipts of the stages that asked it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import read_json

STAGES = ("qualify", "winrate")  # those that ask the judge


def read_usage(receipts: Path) -> dict[str, str]:
    """Return for each stage that left a receipt what the judge took in its newest run on this machine, in a sentence.

    Receipts stay where they were written, so a checkout that only pulled its results has none.
    """
    usage: dict[str, str] = {}
    for stage in STAGES:
        with contextlib.suppress(OSError, PipelineError):
            receipt = read_json(receipts / f"{stage}.json")
            if isinstance(noted := (receipt.get("notes") or {}).get("judge_usage"), Mapping):
                usage[stage] = f"{describe_usage(noted)} (run of {receipt.get('ended') or 'an unknown time'})"
    return usage


def describe_usage(usage: Mapping[str, Any]) -> str:
    """Return the calls, tokens, seconds and cost of judgements; the cost is in the currency of the params' prices."""
    calls, cached = int(usage.get("attempts") or 0), int(usage.get("cached") or 0)
    if not calls and not cached:
        return "no call to a model"
    tokens = f"{int(usage.get('tokens_in') or 0):,} tokens in, {int(usage.get('tokens_out') or 0):,} out"
    model = f", answered by {usage['model']}" if usage.get("model") else ""
    return (
        f"{calls:,} calls, {cached:,} judgements recalled, {tokens}, {float(usage.get('seconds') or 0):,.1f} s of "
        f"answering, cost {float(usage.get('cost') or 0):,.4f}{model}"
    )
