"""Numbers and findings as text, the same on the page and on the card."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from tasks.core.base_model import BaseModel
from tasks.page.answer_facts import Kl, VerdictFacts
from tasks.page.facts import AgreementFacts, EvidenceFacts, Measures, PapersFacts
from tasks.page.measured import Rate

UNBELIEVABLE = "Not to be believed"
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
    "control_judge": "judge is a control, which ignores quality",
    "control_z": "base against itself: standard errors off one half",
    "distinct_ratio": "different answers over all answers",
    "empty_share": "empty answers",
    "identical_share": "answers equal to the base's",
    "judge_pairs": "labelled pairs that the judge was measured on",
    "judge_agreement": "judge agrees with labels: lower bound",
    "judge_canaries": "judge is not fooled: least share of games that a canary lost",
    "judge_position_bias": "judge prefers no position: farthest from one half",
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
    """Return the evidence in one sentence.

    A failed guard comes first: no rate is evidence then. Else the interval decides whether the adapter is better, worse
    or neither.
    """
    rate = evidence.rate
    bounds = f"{level(evidence)} interval {interval(rate)}{', ties counted as half' if evidence.ties else ''}"
    result = f"a win rate of {percent(rate.value)} on {many(evidence.prompts, 'held-out prompt')} ({bounds})"
    if failed := [guard.key for guard in evidence.failed_guards]:
        return f"{UNBELIEVABLE}: {guards_failed(failed)}. Measured was {result}."
    if rate.low > 0.5:
        return f"The adapter beats its base: {result}."
    if rate.high < 0.5:
        return f"The adapter loses to its base: {result}."
    return f"Undecided: {result}; the true win rate may be one half."


def guards_failed(keys: Sequence[str]) -> str:
    """Return in a clause that guards failed, by the names that params, log and gate give them."""
    return f"the guard{'s' if len(keys) > 1 else ''} {listed(keys)} failed"


def listed(names: Sequence[str]) -> str:
    """Return names as a list in a sentence: ``a, b and c``."""
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def sentence(clause: str) -> str:
    """Return a clause as a sentence: with a capital letter and a full stop."""
    return f"{clause[:1].upper()}{clause[1:]}."


def caveats(base: BaseModel, evidence: EvidenceFacts) -> list[str]:
    """Return the reasons to doubt the verdict, one sentence each."""
    reasons = [f"The judge does not qualify: {fault}." for fault in evidence.papers.faults]
    if not evidence.control.low <= 0.5 <= evidence.control.high:
        reasons.append("The base does not score one half against itself: the judge is biased.")
    if evidence.coverage < 1:
        reasons.append(f"Only {percent(evidence.coverage)} of the prompts have a verdict.")
    if base.kind == "demo":
        reasons.append(
            "This is the built-in demo, a tiny model in a made-up world: it shows the pipeline, and is no product."
        )
    return reasons


def judge_name(papers: PapersFacts) -> str:
    """Return the judge's kind, and what its params name where they name something: ``openai (gpt-5)``."""
    kind = {"rules": "rules on text", "own": "learned from the training pairs"}.get(papers.kind, papers.kind)
    return f"{kind} ({papers.model})" if papers.model else kind


def standing(papers: PapersFacts) -> str:
    """Return in one sentence whether the judge may be believed."""
    if papers.faults:
        return "The judge does not qualify, so what it says of answers is no evidence."
    labels = papers.labels
    return (
        f"The judge qualifies: it agrees with the labels on {share(labels.agreement)} of "
        f"{many(labels.decided, 'decided pair')}; the longer answer does on {share(papers.length_labels.agreement)}."
    )


def origin(papers: PapersFacts) -> str:
    """Return what a reader must know of where the judge comes from; empty for nothing."""
    if papers.kind == "own":
        return "It learned from the labels that the adapter learned from, so the two may share their mistakes."
    if papers.kind in ("length", "random"):
        return "It is a control, which ignores quality."
    return ""


def share(rate: Rate | None) -> str:
    """Return a share with its interval, ``91.4 % (88.0–94.1 %)``; a dash where there is none."""
    return "–" if rate is None else f"{percent(rate.value)} ({interval(rate)})"


def kappa(rate: Rate | None) -> str:
    """Return Cohen's κ with its interval; a dash where there is none."""
    return "–" if rate is None else f"{number(rate.value)} ({number(rate.low)} to {number(rate.high)})"


def position(labels: AgreementFacts) -> str:
    """Return the first-position share with its interval, or why there is none."""
    if labels.first_position_share is None:
        return "none: each answer is scored alone"
    return share(labels.first_position_share)


def canaries(papers: PapersFacts) -> str:
    """Return the share of its games that each canary lost."""
    lost = [f"{name.replace('_', ' ')} {percent(value, 0)}" for name, value in papers.canaries.items()]
    return ", ".join(lost) or "not measured"


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


def distance(log_ratios: Mapping[str, float]) -> str:
    """Return how training changed the likelihood of held-out answers against the reference, and what that is not."""
    chosen, rejected = (signed(log_ratios[name]) for name in ("chosen", "rejected"))
    return (
        f"On held-out answers: the mean of log π − log π_ref is {chosen} nats on the chosen held-out answers "
        f"and {rejected} on the rejected ones. It is not the KL divergence, which is a mean over answers that the "
        "adapter itself writes."
    )


def kl(value: Kl | None) -> str:
    """Return the KL divergence in nats an answer, with its standard error: ``2.37 ± 0.04``."""
    if value is None:
        return "not measured: a server answered"
    return number(value.per_answer) + ("" if value.per_answer_se is None else f" ± {number(value.per_answer_se)}")


def divergence(value: Kl) -> str:
    """Return the KL divergence to the base in a sentence, and at which temperature it is taken."""
    return (
        f"KL to the base, nats per answer: {kl(value)} (standard error over prompts), or {number(value.per_token, 3)} "
        "per token, estimated on the adapter's own answers. They were drawn as `respond` in params.yaml says, and both "
        "models' probabilities are taken at temperature 1 without top-p: where answers were drawn otherwise, the "
        "number shows the divergence's size only."
    )


def base_name(base: BaseModel) -> str:
    """Return the name of the base model; of a local folder only the last part of its path."""
    if base.kind == "local":
        return f"a local folder named {PurePath(base.source).name}"
    return base.source if base.kind == "hub" else "the built-in demo model"


def outcome(credit: float | None) -> str:
    """Return what a credit in [0, 1] means for the adapter: `won`, `tied`, `lost` or `missing`."""
    if credit is None:
        return "missing"
    return "tied" if credit == 0.5 else "won" if credit > 0.5 else "lost"


def finding(said: VerdictFacts) -> str:
    """Return what the judge said of two answers, in a clause."""
    if said.status == "skipped_identical":
        return "both answers are the same, so no judge was asked: a tie"
    if said.credit is None:
        return "no usable verdict" if said.status == "invalid" else "the judge gave no verdict"
    result = {"won": "the adapter's is better", "lost": "the adapter's is worse"}.get(outcome(said.credit), "a tie")
    return (
        result
        if said.credit in (0, 0.5, 1)
        else f"{result}, with a probability of {number(max(said.credit, 1 - said.credit))}"
    )


def shown(order: str) -> str:
    """Return how the judge was shown the two answers."""
    return {"AB": "adapter shown first", "BA": "adapter shown second"}.get(order, "each scored alone")
