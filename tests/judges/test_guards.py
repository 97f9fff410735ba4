"""Guards: each catches what it is for, and a sound run passes them all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import ArtifactError, ConfigError
from tasks.judges.evidence.guards import GuardLimits, Measured, check_guards, length_ratio
from tasks.judges.evidence.leakage import Leakage, measure_leakage
from tasks.judges.protocol.protocol import Answer

LIMITS = GuardLimits(
    max_truncated_share=0.1,
    min_distinct_ratio=0.5,
    length_ratio=(0.5, 2.0),
    max_overlapping_prompt_share=0.2,
    max_benchmark_drop=0.02,
    overlap_words=4,
)
SOUND = Measured(
    policy=[Answer(f"Thank you, number {i}.", "stop", 6) for i in range(20)],
    reference=[Answer(f"Hello, number {i}.", "stop", 5) for i in range(20)],
    max_abs_delta_logit=0.7,
    leakage=Leakage(0.0, 0.1),
    control_rate=0.52,
    control_se=0.03,
    papers={
        "agreement": {"bound": 0.7, "pairs": 20},
        "min_agreement": 0.5,
        "canaries": {"dot": 1.0},
        "position_bias": 0.1,
    },
)


def _failed(**changes) -> set[str]:
    guards = check_guards(dataclasses.replace(SOUND, **changes), LIMITS)
    return {name for name, guard in guards.items() if not guard.is_passed}


def test_a_sound_run_passes_every_guard():
    assert _failed() == set()


@pytest.mark.parametrize(
    ("change", "guard"),
    [
        ({"max_abs_delta_logit": 0.0}, "adapter_max_abs_delta_logit"),
        ({"policy": [Answer("Always the same.", "stop", 5)] * 20}, "distinct_ratio"),
        ({"policy": [Answer("", "stop", 0), *SOUND.policy[1:]]}, "empty_share"),
        ({"policy": [dataclasses.replace(answer, finish="length") for answer in SOUND.policy]}, "truncated_share"),
        ({"policy": [dataclasses.replace(answer, n_tokens=11) for answer in SOUND.policy]}, "length_ratio"),
        ({"policy": [dataclasses.replace(answer, n_tokens=2) for answer in SOUND.policy]}, "length_ratio"),
        ({"policy": [Answer(f"{i} no no no no no no", "stop", 6) for i in range(20)]}, "repeated_share"),
        ({"policy": SOUND.reference}, "identical_share"),
        ({"leakage": Leakage(0.05, 0.1)}, "seen_prompt_share"),
        ({"leakage": Leakage(0.0, 0.3)}, "overlapping_prompt_share"),
        ({"control_rate": 0.65}, "control_z"),
        ({"is_control_judge": True}, "control_judge"),
        ({"papers": {**SOUND.papers, "agreement": {"bound": 0.5, "pairs": 20}}}, "judge_agreement"),
        ({"papers": {**SOUND.papers, "agreement": {"bound": 0.7, "pairs": 19}}}, "judge_pairs"),
        ({"papers": {**SOUND.papers, "canaries": {"dot": 1.0, "empty": 0.8}}}, "judge_canaries"),
        ({"papers": {**SOUND.papers, "canaries": {}}}, "judge_canaries"),
        ({"papers": {**SOUND.papers, "position_bias": 0.21}}, "judge_position_bias"),
        ({"benchmark_drop": 0.021}, "benchmark_drop"),
        ({"control_rate": 0.6, "control_se": None}, "control_z"),
    ],
)
def test_each_fault_is_caught_by_its_guard_alone(change, guard):
    assert _failed(**change) == {guard}


def test_a_reference_that_always_ties_with_itself_is_no_fault():
    assert _failed(control_rate=0.5, control_se=0.0) == set()


def test_a_guard_is_recorded_with_value_limit_and_verdict():
    guards = check_guards(SOUND, LIMITS)
    assert guards["length_ratio"].as_json() == {"value": 1.2, "limit": [0.5, 2.0], "rule": "between", "passed": True}
    assert guards["distinct_ratio"].as_json() == {"value": 1.0, "limit": 0.5, "rule": "at least", "passed": True}


def test_two_silent_sides_have_a_length_ratio():
    assert length_ratio([Answer("")], [Answer("")]) == 1.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"max_truncated_share": 1.5}, "winrate.guards.max_truncated_share"),
        ({"length_ratio": (2.0, 0.4)}, "winrate.guards.length_ratio"),
        ({"overlap_words": 0}, "winrate.guards.overlap_words"),
    ],
)
def test_wrong_limits_are_refused_by_name(change, told):
    with pytest.raises(ConfigError, match=told):
        dataclasses.replace(LIMITS, **change)


def _write_pairs(folder: Path, **splits: dict[str, str | list[str]]) -> Path:
    schema = pa.schema([("prompt_id", pa.string()), ("prompt", pa.string())])
    for split, prompts in splits.items():
        rows = [
            {
                "prompt_id": name,
                "prompt": json.dumps(
                    told if isinstance(told, str) else [{"role": "user", "content": turn} for turn in told]
                ),
            }
            for name, told in prompts.items()
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{split}.parquet")
    return folder


def test_leaked_prompts_are_counted_exactly_and_by_runs_of_words(tmp_path):
    pairs = _write_pairs(
        tmp_path,
        train={"t1": "Where is my parcel?", "t2": ["I like long walks on the sunny beach today"]},
        test={
            "same": ["where is  MY parcel"],  # the same words in another form
            "shares": "They took long walks on the pier",
            "short": "my parcel",  # shorter than a run, and not a prompt of its own in training
            "fresh": "Nothing here is known to anyone",
            "unasked": "Where is my parcel",
        },
    )
    found = measure_leakage(pairs, ["same", "shares", "short", "fresh"], ngram=4)
    assert (found.exact, found.overlapping) == (0.25, 0.5)


def test_prompts_of_a_set_of_ones_own_leak_like_held_out_ones(tmp_path):
    pairs = _write_pairs(tmp_path, train={"t": "Where is my parcel?"}, test={"p": "Nothing is known of it"})
    turns = [{"role": "system", "content": "Where is"}, {"role": "user", "content": "my parcel"}]
    added = {"a": json.dumps(turns), "b": json.dumps("Who are you?"), "unasked": json.dumps("Where is my parcel?")}
    leakage = measure_leakage(pairs, ["p", "a", "b"], ngram=4, added=added)
    assert (leakage.exact, leakage.overlapping) == (1 / 3, 1 / 3)


def test_an_answered_prompt_that_is_not_held_out_is_refused(tmp_path):
    pairs = _write_pairs(tmp_path, train={"t": "a"}, test={"p": "b"})
    with pytest.raises(ArtifactError, match=r"prompt gone was answered but is not in .*test\.parquet"):
        measure_leakage(pairs, ["p", "gone"], ngram=3)


def test_a_damaged_pairs_file_is_refused_by_name(tmp_path):
    (tmp_path / "test.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ArtifactError, match=r"test\.parquet cannot be read"):
        measure_leakage(tmp_path, ["p"], ngram=3)
