"""Numbers and findings in words, the same on the page and on the card."""

from __future__ import annotations

import unicodedata

from tasks.page.facts import BaseFacts, EvidenceFacts, Measures, Rate

_GAP = "\u00a0"  # keeps a number and its unit on one line
_MINUS = "\u2212"
_REPLACED = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}


def percent(share: float, digits: int = 1) -> str:
    """Return a share in [0, 1] as a percentage: ``0.914`` is ``91.4 %``."""
    return f"{100 * share:.{digits}f}{_GAP}%"


def maybe_percent(share: float | None) -> str:
    """Return a share as a percentage, or a dash where there is none."""
    return "–" if share is None else percent(share)


def number(value: float, digits: int = 2) -> str:
    """Return a number with a true minus sign and thousands set apart; a rounded zero has no sign."""
    text = f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", _MINUS)
    return text.removeprefix(_MINUS) if float(f"{value:.{digits}f}") == 0 else text


def count(value: float) -> str:
    """Return a whole number with thousands set apart."""
    return number(value, 0)


def many(value: int, one: str, more: str = "") -> str:
    """Return a count and its noun: ``1 prompt``, ``212 prompts``."""
    return f"{count(value)}{_GAP}{one if value == 1 else more or one + 's'}"


def passes(epochs: float) -> str:
    """Return epochs as passes over the data: ``1 pass``, ``2.5 passes``."""
    return f"{number(epochs, 0 if epochs == int(epochs) else 1)}{_GAP}{'pass' if epochs == 1 else 'passes'}"


def interval(rate: Rate) -> str:
    """Return the interval of a rate, or a dash where there is none."""
    if rate.low is None or rate.high is None:
        return "–"
    return f"{100 * rate.low:.1f}–{100 * rate.high:.1f}{_GAP}%"


def level(evidence: EvidenceFacts) -> str:
    """Return the level of the intervals: ``95 %``."""
    return f"{100 * evidence.confidence:.4g}{_GAP}%"


def guard_name(name: str) -> str:
    """Return a guard's name in words; an unknown one is shown as it is called."""
    return _GUARDS.get(name, name.replace("_", " "))


_GUARDS = {
    "adapter_max_abs_delta_logit": "adapter applied: largest change of a logit",
    "control_judge": "judge that knows nothing of quality",
    "control_z": "base against itself: standard errors off one half",
    "distinct_ratio": "different answers over all answers",
    "empty_share": "empty answers",
    "identical_share": "answers equal to the base's",
    "length_ratio": "mean length over the base's",
    "overlapping_prompt_share": "prompts sharing a run of words with the training data",
    "repeated_share": "answers that repeat themselves",
    "seen_prompt_share": "prompts that stand in the training data",
    "truncated_share": "answers cut by the length limit",
}


def p_value(value: float | None) -> str:
    """Return a p-value as one reads it: below one in a thousand its size says nothing more."""
    if value is None:
        return "–"
    return f"<{_GAP}0.001" if value < 0.001 else f"{value:.3f}"


def visible(text: str, limit: int | None = None) -> str:
    """Return text that a model wrote, fit to be shown: control characters become pictures of themselves.

    Args:
        text: Anything; broken surrogates and characters that turn the reading direction are replaced too.
        limit: Characters to keep; what is cut is counted at the end.
    """
    shown = "".join(_safe(char) for char in text.replace("\r\n", "\n").translate(_REPLACED))
    if limit is None or len(shown) <= limit:
        return shown
    return f"{shown[:limit].rstrip()} … ({many(len(shown) - limit, 'character')} more)"


def _safe(char: str) -> str:
    if unicodedata.category(char) == "Cs" or unicodedata.bidirectional(char) in _TURNING:
        return "\ufffd"
    return char


_TURNING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def finding(evidence: EvidenceFacts) -> str:
    """Return what the interval allows to say: `better`, `worse` or `undecided`."""
    low, high = evidence.rate.low, evidence.rate.high
    if low is not None and low > 0.5:
        return "better"
    return "worse" if high is not None and high < 0.5 else "undecided"


def verdict(evidence: EvidenceFacts) -> str:
    """Return the evidence in one sentence."""
    rate = evidence.rate
    ties = ", ties counted as half" if evidence.ties else ""
    bounds = "no interval" if rate.low is None else f"{level(evidence)} interval {interval(rate)}"
    found = f"a win rate of {percent(rate.value)} on {many(evidence.prompts, 'held-out prompt')} ({bounds}{ties})"
    return {
        "better": f"The adapter beats its base: {found}.",
        "worse": f"The adapter loses to its base: {found}.",
        "undecided": f"Undecided: {found}, which one half would explain as well.",
    }[finding(evidence)]


def caveats(base: BaseFacts, evidence: EvidenceFacts) -> list[str]:
    """Return what speaks against believing the verdict, a sentence each; an empty list when nothing does."""
    found = []
    if failed := evidence.failed_guards:
        names = ", ".join(guard.name for guard in failed)
        found.append(f"{many(len(failed), 'guard')} did not pass ({names}): the win rate may have another cause.")
    if not any_covers_half(evidence.control):
        found.append("The base does not score one half against itself: the judging leans to one side.")
    if evidence.coverage < 1:
        found.append(f"Only {percent(evidence.coverage)} of the prompts have a verdict.")
    if base.is_demo:
        found.append("This is the built-in demo: a tiny model in a made-up world. It shows the way, not a product.")
    return found


def any_covers_half(control: Rate | None) -> bool:
    """Tell whether the control's interval holds one half, or there is none to say otherwise."""
    if control is None or control.low is None or control.high is None:
        return True
    return control.low <= 0.5 <= control.high


def likelihood(before: Measures, after: Measures) -> str:
    """Return what the chosen answers' log-probability did, and what that means."""
    change = after.logp_chosen - before.logp_chosen
    moved = f"from {number(before.logp_chosen)} to {number(after.logp_chosen)} nats"
    if change >= 0:
        return (
            f"The chosen answers became more likely ({moved}), so the margin was not bought by making "
            "everything less likely."
        )
    return (
        f"The chosen answers became less likely ({moved}): the margin grew because the rejected ones fell "
        "further. A large fall is likelihood collapse, which loss and accuracy hide; the answers below show "
        "whether the text has suffered."
    )


def base_name(base: BaseFacts) -> str:
    """Return what the adapter was trained on, without a machine's path."""
    return {
        "demo": "the built-in demo model",
        "local": f"a local folder named {base.name}",
        "hub": base.name,
    }[base.kind]
