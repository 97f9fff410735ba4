"""The model card in the format of the Hugging Face Hub: a README.md with metadata."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.page import words
from tasks.page.facts import EvidenceFacts, Facts, PapersFacts
from tasks.page.measured import Rate
from tasks.page.snippet import loading_snippet

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TAGS = ["dpo", "lora", "preference-optimization"]
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|!&~$])")


def model_card(facts: Facts, title: str, model_license: str | None) -> str:
    """Return the card's text.

    The metadata names the base only if it is a hub id: the Hub rejects a card whose `base_model` is not one, and a
    folder's path exists on one machine only.
    """
    return f"---\n{_metadata(facts, title, model_license)}\n---\n\n{_body(facts, title)}"


def _metadata(facts: Facts, title: str, model_license: str | None) -> str:
    from huggingface_hub import ModelCardData

    name = " ".join(words.visible(title).split())
    data = ModelCardData(
        base_model=facts.base.source if facts.base.kind == "hub" else None,
        library_name="peft",
        pipeline_tag="text-generation",
        license=model_license,
        tags=TAGS + (["demo"] if facts.base.kind == "demo" else []),
        datasets=list(facts.lineage.datasets) or None,
        model_name=name,
        eval_results=_results(facts),
    )
    return data.to_yaml().strip()


def _results(facts: Facts) -> list[EvalResult]:
    """Return the metrics of the card's `model-index`, as shares in [0, 1]; no win rate where a guard failed.

    Programs read them without the sentence that says whether they are to be believed.
    """
    from huggingface_hub import EvalResult

    accuracy = ("preference_accuracy", "Held-out preference accuracy", facts.training.after.accuracy)
    values = [*_rates(facts.evidence), accuracy]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Text generation",
            dataset_type=facts.lineage.datasets[0] if facts.lineage.datasets else "held-out-preferences",
            dataset_name="Held-out preference prompts",
            dataset_split="test",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for kind, name, value in values
    ]


def _rates(evidence: EvidenceFacts) -> list[tuple[str, str, float]]:
    """Return type, name and value of each win rate; where a guard failed, how many did, for no rate is evidence."""
    if failed := [guard.key for guard in evidence.failed_guards]:
        name = f"{words.UNBELIEVABLE}: guards of the win rate failed ({', '.join(failed)})"
        return [("failed_guards", name, float(len(failed)))]

    bound = f"Win rate, one-sided {words.level(evidence)} lower bound".replace("\u00a0", " ")
    rates = [
        ("win_rate", "Win rate against the base", evidence.rate.value),
        ("win_rate_lower_bound", bound, evidence.lower_bound),
    ]
    if evidence.length_controlled:
        rates.append(("win_rate_length_controlled", "Length-controlled win rate", evidence.length_controlled.value))
    return rates


def _body(facts: Facts, title: str) -> str:
    """Return the card's Markdown. It contains no answer of a model, because programs also read cards."""
    training, evidence = facts.training, facts.evidence
    caveats = "".join(f"- {_escaped(line)}\n" for line in words.caveats(facts.base, evidence))
    digests = "".join(f"- {_escaped(name)}: `{digest}`\n" for name, digest in facts.lineage.digests)

    return f"""# {_escaped(" ".join(words.visible(title).split()))}

{words.verdict(evidence)}

A LoRA adapter for {_base(facts)}, trained by Direct Preference Optimization
([arXiv:2305.18290](https://arxiv.org/abs/2305.18290)) on {words.many(training.train_pairs, "preference pair")}.

{caveats}
## Evidence

| measure | value |
|---|---|
{_table(_measures(facts))}
{words.likelihood(training.before, training.after)}

The whole evidence, with curves and answers side by side, is in `report.html`.

## Judge

{_escaped(f"{words.standing(evidence.papers)} {words.origin(evidence.papers)}")}

| the judge | |
|---|---|
{_table(_papers(evidence.papers))}
## Use

```python
{loading_snippet(facts.base)}```

## Lineage

- base: {_base(facts)}, digest `{facts.base.digest}`
{digests}"""


def _table(rows: Sequence[tuple[str, str]]) -> str:
    """Return the rows of a table of two columns."""
    return "".join(f"| {label} | {value} |\n" for label, value in rows)


def _measures(facts: Facts) -> list[tuple[str, str]]:
    """Return the measures of the adapter, as Markdown."""
    evidence, before, after = facts.evidence, facts.training.before, facts.training.after
    level = words.level(evidence)
    rows = [
        ("Win rate against the base", _rate(evidence.rate, level)),
        ("Length-controlled win rate", _rate(evidence.length_controlled, level)),
        ("Control: the base against itself", _rate(evidence.control, level)),
        ("Held-out accuracy", f"{words.percent(before.accuracy)} before, {words.percent(after.accuracy)} after"),
        ("Reward margin", f"{words.number(before.margin)} before, {words.number(after.margin)} after"),
        ("KL to the base, nats per answer", words.kl(facts.answers.kl)),
        ("Won, tied, lost", f"{evidence.wins}, {evidence.ties}, {evidence.losses}"),
        ("Guards passed", words.passed_guards(evidence)),
        *[("Guard failed", f"`{guard.key}`: {_escaped(guard.name)}") for guard in evidence.failed_guards],
    ]
    if evidence.champion:
        version = _escaped(evidence.champion_digest[:12])
        rows.insert(2, (f"Win rate against version {version}", _rate(evidence.champion, level)))
    return rows


def _papers(papers: PapersFacts) -> list[tuple[str, str]]:
    """Return what is known of the judge, as Markdown."""
    labels = papers.labels
    return [
        ("Kind", _escaped(words.judge_name(papers))),
        ("Fingerprint", f"`{papers.judge[:12]}`"),
        ("Agreement with labels", f"{words.share(labels.agreement)} on {words.many(labels.decided, 'decided pair')}"),
        (
            "Lower bound of agreement",
            f"{words.percent(labels.bound)} (must lie above {words.percent(papers.min_agreement)})",
        ),
        ("Agreement of the longer answer", words.share(papers.length_labels.agreement)),
        ("Cohen's κ", words.kappa(labels.kappa)),
        ("First-position share", words.position(labels)),
        ("Ties, invalid", f"{labels.ties}, {labels.invalid} of {words.many(labels.pairs, 'labelled pair')}"),
        ("Games lost by canaries", _escaped(words.canaries(papers))),
    ]


def _base(facts: Facts) -> str:
    base = facts.base
    return f"{_escaped(words.base_name(base))}" + (f" at revision `{base.revision}`" if base.revision else "")


def _rate(rate: Rate | None, level: str) -> str:
    return "not computed" if rate is None else f"{words.percent(rate.value)} ({level} interval {words.interval(rate)})"


def _escaped(text: str) -> str:
    """Return text that Markdown shows unchanged."""
    return _MARKUP.sub(r"\\\1", " ".join(words.visible(text).split()))
