"""The languages of the prompts, recognised by py3langid in a sample."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError
from tasks.pairs.record.pair import prompt_of
from tasks.pairs.record.parquet import read_batches

SAMPLE = 10_000  # prompts that are looked at, about so many
_CHARACTERS = 1000  # of each; more change little
_LEAST_CONFIDENCE = 0.2  # below it, as for code and for very short texts, the language is `und`, undetermined


def load_identifier() -> Any:
    """Return py3langid's identifier, with the model that the package holds.

    Raises:
        ConfigError: The package is not installed.
    """
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ConfigError(
            f"`ingest.languages` needs py3langid ({error})",
            "install it: `pip install -c constraints.txt -e .[hygiene]`, or set it to false",
        ) from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=_LEAST_CONFIDENCE)


def language_mix(folder: Path, prompts: int, identifier: Any) -> dict[str, int]:
    """Return prompts by language (ISO 639 codes), of a sample that the hashes of the prompts choose.

    Args:
        folder: Holds the pairs, `train.parquet` and `test.parquet`.
        prompts: How many distinct prompts they have.
        identifier: What :func:`load_identifier` returned.
    """
    last = f"{min(2**64 * SAMPLE // max(prompts, 1), 2**64 - 1):016x}"
    sample: dict[str, str] = {}  # by the prompt's id
    for side in ("train", "test"):
        for batch in read_batches(folder / f"{side}.parquet"):
            columns = (batch.column(name).to_pylist() for name in ("prompt_id", "prompt"))
            sample |= {name: prompt for name, prompt in zip(*columns, strict=True) if name <= last}
    return dict(Counter(identifier.classify(_question(prompt)[:_CHARACTERS])[0] for prompt in sample.values()))


def _question(content_json: str) -> str:
    """Return what the user said last, or the whole prompt where it is text."""
    prompt = prompt_of(content_json)
    if isinstance(prompt, str):
        return prompt
    return next((turn.content for turn in reversed(prompt) if turn.role == "user"), "")
