"""The evidence that the gate decides on: credits of each prompt, coverage and guards, as `winrate` wrote them.

In `metrics.json` and `scores.jsonl`, missing keys are refused and additional ones ignored. Two parts are optional: a
`judge` key in the metrics (its fingerprint), and a `champion: {"digest": ...}` key with `champion_scores.jsonl`, the
candidate's credits in direct comparison with that version.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import ArtifactError
from tasks.core.files import digest_of, sha256_bytes
from tasks.registry.log.names import is_digest

METRICS, SCORES, DUEL = "metrics.json", "scores.jsonl", "champion_scores.jsonl"
_AGAIN = "run `dvc repro winrate`"
_SLACK = 1e-3  # metrics may be rounded
_SAMPLE = 256  # prompts that stand for a whole set in the log
_SAMPLES = (64, _SAMPLE)  # lengths of samples that may be a part of their set; earlier entries hold at most 64
_DIGITS = 8
_ALL = "g"  # sorts after every hexadecimal hash

Scores = Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class Guard:
    """One guard's verdict: what was measured, what is allowed, and whether it passed."""

    name: str
    value: Any
    limit: Any
    is_passed: bool


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The evidence on one version's responses.

    Attributes:
        version: The version's digest.
        base: Digest of the base model. It is the reference of the scores, whatever adapter training continued from.
        scores: Credit in [0, 1] of each prompt against the reference; None where the verdict is missing.
        coverage: Share of prompts with a verdict.
        guards: The guards that were measured.
        judge: Fingerprint of the judge, if the metrics give one.
        duel_with: Digest of the champion that the candidate was compared with head to head; None without.
        duel: The candidate's credits in that comparison.
    """

    version: str
    base: str
    scores: Scores
    coverage: float
    guards: tuple[Guard, ...]
    judge: str | None = None
    duel_with: str | None = None
    duel: Scores = dataclasses.field(default_factory=dict)

    @property
    def prompt_set(self) -> str:
        """Digest of the prompts that were judged."""
        return digest_of(sorted(self.scores))

    @property
    def prompt_sample(self) -> list[str]:
        """The 256 lowest hashes of the prompts that were judged: from two such samples the overlap can be estimated."""
        return sorted(sha256_bytes(f"look/{prompt}".encode())[:_DIGITS] for prompt in self.scores)[:_SAMPLE]

    def credits(self) -> list[float]:
        """Return the credit of each prompt, 0 where the verdict is missing."""
        return [score or 0.0 for score in self.scores.values()]

    def judged(self) -> list[float]:
        """Return the credit of each prompt that has a verdict; where none has, 0 for each prompt."""
        return [score for score in self.scores.values() if score is not None] or self.credits()

    def credits_against(self, champion: str) -> list[float] | None:
        """Return the credits head to head against ``champion``; None if they were not compared."""
        if self.duel_with != champion:
            return None
        return [score or 0.0 for score in self.duel.values()]

    def differs_from(self, champion: Evidence) -> str:
        """Return why the credits cannot be compared with the champion's; empty if they can."""
        if self.base != champion.base:
            return f"its reference is {champion.base[:12]}, the candidate's {self.base[:12]}"
        if self.judge and champion.judge and self.judge != champion.judge:
            return f"its judge was {champion.judge[:12]}, the candidate's {self.judge[:12]}"
        return ""

    def shared_with(self, champion: Evidence) -> list[tuple[float, float]]:
        """Return the credits of candidate and champion on each prompt for which the champion's is known.

        A missing credit of the candidate is a loss. A missing one of the champion is left out: as a loss it would
        favour the candidate.
        """
        pairs = [(score, champion.scores.get(prompt)) for prompt, score in self.scores.items()]
        return [(score or 0.0, champions) for score, champions in pairs if champions is not None]


def are_much_the_same(one: Sequence[str], other: Sequence[str]) -> bool:
    """Estimate from samples whether two sets of prompts share at least half of the smaller one.

    So a subset of the same prompts is the same look, and so is a set that contains them. A sample holds the lowest
    hashes of its set. Up to the lower of the two highest hashes both samples are complete, so there they are compared
    (Broder 1997, min-wise hashing).
    """
    highest = min(_complete_to(one), _complete_to(other))
    parts = [{name for name in names if name <= highest} for names in (one, other)]
    shared, smaller = len(parts[0] & parts[1]), min(map(len, parts))
    return smaller > 0 and 2 * shared >= smaller


def _complete_to(sample: Sequence[str]) -> str:
    """Return the hash up to which a sample holds all hashes of its set."""
    return max(sample) if len(sample) in _SAMPLES else _ALL


def read_folder(folder: Path, base: str, version: str) -> Evidence:
    """Read the evidence in ``folder`` (`results/winrate/`).

    Raises:
        ArtifactError: A file or key is missing or malformed; the message names it.
    """
    files = {name: (folder / name).read_bytes() for name in (METRICS, SCORES, DUEL) if (folder / name).is_file()}
    for name in (METRICS, SCORES):
        if name not in files:
            raise ArtifactError(f"{folder / name} is missing", _AGAIN)
    return parse(files, str(folder), base, version)


def parse(files: Mapping[str, bytes], where: str, base: str, version: str) -> Evidence:
    """Build evidence from the bytes of its files, by name; ``where`` names their place in messages.

    Raises:
        ArtifactError: A key is missing or malformed, or metrics and scores contradict each other.
    """
    metrics = _object(files[METRICS], f"{where}/{METRICS}")
    scores = _scores(files[SCORES], f"{where}/{SCORES}")
    _check_agreement(metrics, scores, where)

    known = sum(score is not None for score in scores.values()) / len(scores)
    judge, duel_with = metrics.get("judge"), (metrics.get("champion") or {}).get("digest")
    has_duel = DUEL in files and is_digest(duel_with)
    return Evidence(
        version=version,
        base=base,
        scores=scores,
        coverage=min(known, _number(metrics, "coverage", f"{where}/{METRICS}")),
        guards=_guards(metrics, f"{where}/{METRICS}"),
        judge=judge if judge is None or isinstance(judge, str) else digest_of(judge),
        duel_with=duel_with if has_duel else None,
        duel=_scores(files[DUEL], f"{where}/{DUEL}") if has_duel else {},
    )


def _object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ArtifactError(f"{where} is not valid JSON ({error})", _AGAIN) from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{where} is not a JSON object", _AGAIN)
    return value


def _value(record: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in record:
        raise ArtifactError(f"{where} has no key `{key}`", _AGAIN)
    return record[key]


def _number(record: Mapping[str, Any], key: str, where: str) -> float:
    value = _value(record, key, where)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArtifactError(f"{where}: `{key}` is {value!r}, not a number", _AGAIN)
    return float(value)


def _scores(data: bytes, where: str) -> dict[str, float | None]:
    """Read `prompt_id` and `score` of each line, in order."""
    scores: dict[str, float | None] = {}
    for number, line in enumerate(data.removesuffix(b"\n").split(b"\n") if data else [], start=1):
        record = _object(line, f"{where}:{number}")
        prompt = str(_value(record, "prompt_id", f"{where}:{number}"))
        if prompt in scores:
            raise ArtifactError(f"{where}:{number} is the second line of prompt {prompt}", _AGAIN)

        is_missing = _value(record, "score", f"{where}:{number}") is None
        score = None if is_missing else _number(record, "score", f"{where}:{number}")
        if score is not None and not 0 <= score <= 1:
            raise ArtifactError(f"{where}:{number}: `score` is {score}, outside 0 to 1", _AGAIN)
        scores[prompt] = score
    if not scores:
        raise ArtifactError(f"{where} holds no prompt", _AGAIN)
    return scores


def _check_agreement(metrics: Mapping[str, Any], scores: Scores, where: str) -> None:
    """Refuse a win rate that does not follow from the scores, with missing verdicts left out or as losses."""
    win_rate = _number(metrics, "win_rate", f"{where}/{METRICS}")
    known = [score for score in scores.values() if score is not None]
    low = math.fsum(known) / len(scores)
    high = math.fsum(known) / len(known) if known else 0.0
    if not low - _SLACK <= win_rate <= high + _SLACK:
        what = f"{where}/{METRICS} says win_rate {win_rate:.4f}, but {SCORES} beside it gives {high:.4f}"
        raise ArtifactError(what, f"the two are not of one run: {_AGAIN}")


def _guards(metrics: Mapping[str, Any], where: str) -> tuple[Guard, ...]:
    guards = []
    for name, record in sorted(_value(metrics, "guards", where).items()):
        if not isinstance(record, dict) or not isinstance(record.get("passed"), bool):
            raise ArtifactError(f"{where}: `guards.{name}.passed` is not true or false", _AGAIN)
        guards.append(Guard(name, record.get("value"), record.get("limit"), record["passed"]))
    return tuple(guards)
