"""Numbers and findings as text, the same on the page and on the card."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath

from tasks.core.base_model import BaseModel
from tasks.page.facts import EvidenceFacts, Measures, Rate

_GAP = "\u00a0"  # keeps a number and its unit on one line
_MINUS = "\u2212"
_REPLACED = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] as a percentage: ``0.914`` is ``91.4 %``, and None is a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f}{_GAP}%"


def number(value: float, digits: int = 2) -> str:
    """Return a number with a minus sign (U+2212) and thin spaces between thousands; a rounded zero has no sign."""
    text = f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", _MINUS)
    return text.removeprefix(_MINUS) if float(f"{value:.{digits}f}") == 0 else text


def signed(value: float, digits: int = 2) -> str:
    """Return a change: :func:`number` with a plus sign where it is above zero."""
    text = number(value, digits)
    return f"+{text}" if float(f"{value:.{digits}f}") > 0 else text


def count(value: float) -> str:
    """Return a number rounded to a whole one, with thin spaces between thousands."""
    return number(value, 0)


def many(value: int, one: str, more: str = "") -> str:
    """Return a count and its noun: ``1 prompt``, ``212 prompts``."""
    return f"{count(value)}{_GAP}{one if value == 1 else more or one + 's'}"


def passes(epochs: float) -> str:
    """Return epochs as passes over the data: ``1 pass``, ``2.5 passes``."""
    return f"{number(epochs, 0 if epochs == int(epochs) else 1)}{_GAP}{'pass' if epochs == 1 else 'passes'}"


def interval(rate: Rate) -> str:
    """Return the interval of a rate: ``79.3–86.1 %``."""
    return f"{100 * rate.low:.1f}–{100 * rate.high:.1f}{_GAP}%"


def level(evidence: EvidenceFacts) -> str:
    """Return the level of the intervals: ``95 %``."""
    return f"{100 * evidence.confidence:.4g}{_GAP}%"


def guard_name(name: str) -> str:
    """Return a guard's name as text; an unknown name is shown with spaces for underscores."""
    return _GUARDS.get(name, name.replace("_", " "))


_GUARDS = {
    "benchmark_drop": "greatest drop of a benchmark's metric",
    "adapter_max_abs_delta_logit": "adapter applied: largest change of a logit",
    "control_judge": "judge that ignores quality",
    "control_z": "base against itself: standard errors off one half",
    "distinct_ratio": "different answers over all answers",
    "empty_share": "empty answers",
    "identical_share": "answers equal to the base's",
    "length_ratio": "mean length over the base's",
    "overlapping_prompt_share": "prompts sharing a run of words with the training data",
    "repeated_share": "answers that repeat themselves",
    "seen_prompt_share": "prompts that are in the training data",
    "truncated_share": "answers cut by the length limit",
}


def left_out(kind: str) -> str:
    """Return why rows of this kind were left out; an unknown kind is shown with spaces for underscores."""
    return _LEFT_OUT.get(kind, kind.replace("_", " "))


_LEFT_OUT = {
    "rejected": "No usable pair",
    "no_preference": "No preference, such as a tie",
    "personal_data": "Personal data or secrets",
    "duplicate": "Duplicates of earlier pairs",
    "contradiction": "Contradictions: both orders of one pair",
    "filtered": "Left out by ingest.where",
    "over_limit": "Beyond ingest.limit or a source's limit",
    "in_test_source": "Prompts of test sources",
    "near_both_sides": "Prompts that are near to both sides of the split",
    "kept_out": "Prompts of evaluation sets (ingest.keep_out)",
}


def p_value(value: float) -> str:
    """Return a p-value to three digits, or `< 0.001`."""
    return f"<{_GAP}0.001" if value < 0.001 else f"{value:.3f}"


def visible(text: str, limit: int | None = None) -> str:
    """Return untrusted text with control characters replaced by visible symbols.

    Args:
        text: Any text; lone surrogates and characters that change the text direction are replaced, too.
        limit: Characters to keep; the number of characters cut is given at the end.
    """
    shown = "".join(_safe(char) for char in text.replace("\r\n", "\n").translate(_REPLACED))
    if limit is None or len(shown) <= limit:
        return shown
    return f"{shown[:limit].rstrip()} … ({many(len(shown) - limit, 'character')} more)"


def _safe(char: str) -> str:
    if unicodedata.category(char) == "Cs" or unicodedata.bidirectional(char) in _DIRECTIONAL:
        return "\ufffd"
    return char


_DIRECTIONAL = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def verdict(evidence: EvidenceFacts) -> str:
    """Return the evidence in one sentence; the interval decides whether the adapter is better, worse or neither.

    Where a guard failed, the sentence says that first: then the rate shows nothing.
    """
    rate = evidence.rate
    bounds = f"{level(evidence)} interval {interval(rate)}{', ties counted as half' if evidence.ties else ''}"
    result = f"a win rate of {percent(rate.value)} on {many(evidence.prompts, 'held-out prompt')} ({bounds})"
    if evidence.failed_guards:
        names = ", ".join(guard.name for guard in evidence.failed_guards)
        return f"Not to be believed, for a guard did not pass ({names}): {result}."
    if rate.low > 0.5:
        return f"The adapter beats its base: {result}."
    if rate.high < 0.5:
        return f"The adapter loses to its base: {result}."
    return f"Undecided: {result}; the true win rate may be one half."


def caveats(base: BaseModel, evidence: EvidenceFacts) -> list[str]:
    """Return the reasons to doubt the verdict, one sentence each."""
    reasons = []
    if failed := evidence.failed_guards:
        names = ", ".join(guard.name for guard in failed)
        reasons.append(f"{many(len(failed), 'guard')} did not pass ({names}): the win rate may have another cause.")
    if not evidence.control.low <= 0.5 <= evidence.control.high:
        reasons.append("The base does not score one half against itself: the judge is biased.")
    if evidence.coverage < 1:
        reasons.append(f"Only {percent(evidence.coverage)} of the prompts have a verdict.")
    if base.kind == "demo":
        reasons.append(
            "This is the built-in demo, a tiny model in a made-up world: it shows the pipeline, and is no product."
        )
    return reasons


def passed_guards(evidence: EvidenceFacts) -> str:
    """Return how many guards passed: ``11 of 11``."""
    return f"{len(evidence.guards) - len(evidence.failed_guards)} of {len(evidence.guards)}"


def likelihood(before: Measures, after: Measures) -> str:
    """Return how the log-probability of the chosen answers changed, and what that means."""
    change = after.logp_chosen - before.logp_chosen
    moved = f"from {number(before.logp_chosen)} to {number(after.logp_chosen)} nats"
    if change >= 0:
        return (
            f"The chosen answers became more likely ({moved}), so the margin did not grow by making "
            "all answers less likely."
        )
    return (
        f"The chosen answers became less likely ({moved}): the margin grew because the rejected ones fell "
        "further. A large fall is likelihood collapse, which loss and accuracy hide; the answers below show "
        "whether the text has suffered."
    )


def base_name(base: BaseModel) -> str:
    """Return the name of the base model; of a local folder only the last part of its path."""
    if base.kind == "local":
        return f"a local folder named {PurePath(base.source).name}"
    return base.source if base.kind == "hub" else "the built-in demo model"
