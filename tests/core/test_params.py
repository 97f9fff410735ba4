"""params.yaml: each mistake is refused by name, with a line of advice."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from dvc.utils.hydra import apply_overrides

from tasks.core.errors import ConfigError
from tasks.core.params import build, load_params, load_section
from tasks.core.section import Section, above
from tasks.dpo.training.train_config import TrainConfig
from tasks.ingest import IngestConfig
from tests.conftest import ROOT


@dataclasses.dataclass(frozen=True)
class Inner:
    rank: int = 8
    share: float = 0.5


@dataclasses.dataclass(frozen=True)
class Owner(Section, path="owner"):
    REMOVED: ClassVar = {"gamma": "delete the line: it is always 1 now"}

    beta: Annotated[float, above(0)]
    kind: Literal["one", "two"] = "one"
    names: Literal["all"] | tuple[str, ...] = "all"
    note: str | None = None
    is_on: bool = True
    budget: int | Literal["auto"] = 8
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    inner: Inner = dataclasses.field(default_factory=Inner)


def section(tmp_path: Path, text: str) -> Owner:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return load_section(path, "owner", Owner)


def test_a_section_becomes_its_owner_and_gaps_take_the_defaults(tmp_path: Path):
    text = "owner:\n  beta: 2\n  names: [q_proj, v_proj]\n  weights: {a: 1}\n  inner: {rank: 4}\n"
    assert section(tmp_path, text) == Owner(2.0, names=("q_proj", "v_proj"), weights={"a": 1.0}, inner=Inner(rank=4))


NUMBERS = [("1e-4", 1e-4), ("5E-6", 5e-6), ("1e3", 1000.0), ("7", 7.0)]
AS_TEXT = [("'1e-5'", 1e-5), ('"5E-6"', 5e-6), ("'2.5e+3'", 2500.0)]


@pytest.mark.parametrize(("text", "value"), [*NUMBERS, *AS_TEXT])
def test_numbers_are_read_as_yaml_1_2_and_those_that_yaml_1_1_takes_as_text_too(
    tmp_path: Path, text: str, value: float
):
    found = section(tmp_path, f"owner: {{beta: {text}}}")
    assert found.beta == value
    assert type(found.beta) is float


def test_no_and_off_are_text_as_in_yaml_1_2(tmp_path: Path):
    assert section(tmp_path, "owner: {beta: 1, note: no}").note == "no"
    with pytest.raises(ConfigError, match=r"`owner.is_on` is 'off' — write true or false"):
        section(tmp_path, "owner: {beta: 1, is_on: off}")


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("16", 16)])
def test_a_key_may_be_a_number_or_a_word(tmp_path: Path, text: str, value: object):
    assert section(tmp_path, f"owner: {{beta: 1, budget: {text}}}").budget == value


MISTAKES = {
    "owner: {bta: 1}": r"unknown key `owner.bta` — did you mean `beta`\?",
    "owner: {beta: 1, zzz: 2}": "unknown key `owner.zzz` — known keys: beta, budget, inner, is_on, kind, names, note",
    "owner: {beta: 1, inner: {rnk: 2}}": r"unknown key `owner.inner.rnk` — did you mean `rank`\?",
    "owner: {kind: one}": "`owner.beta` is missing — add it",
    "owner: {beta: high}": "`owner.beta` is 'high' — write a number",
    "owner: {beta: '0.1'}": "`owner.beta` is '0.1' — write a number",
    "owner: {beta: true}": "`owner.beta` is True — write a number",
    "owner: {beta: null}": "`owner.beta` is None — write a number",
    "owner: {beta: .nan}": "`owner.beta` is nan, which is no finite number — write a number",
    "owner: {beta: .inf}": "`owner.beta` is inf, which is no finite number — write a number",
    "owner: {beta: -1}": "`owner.beta` is -1.0 — write a number above 0",
    "owner: {beta: 1e}": "`owner.beta` is '1e' — write a number",
    "owner: {beta: 1, gamma: 2}": "`owner.gamma` is no longer a key — delete the line: it is always 1 now",
    "owner: {beta: 1, inner: {rank: '1e3'}}": "`owner.inner.rank` is '1e3' — write a whole number",
    "owner: {beta: 1, kind: three}": "`owner.kind` is 'three' — choose one of: one, two",
    "owner: {beta: 1, inner: {rank: 1.5}}": "`owner.inner.rank` is 1.5 — write a whole number",
    "owner: {beta: 1, inner: {rank: true}}": "`owner.inner.rank` is True — write a whole number",
    "owner: {beta: 1, inner: 3}": "`owner.inner` is 3, not a mapping of keys",
    "owner: {beta: 1, names: q_proj}": "`owner.names` is .q_proj. — choose one of: all, or write it as a YAML list",
    "owner: {beta: 1, names: [q_proj, 3]}": r"`owner.names\[1\]` is 3 — write text \(quote it\)",
    "owner: {beta: 1, weights: [1]}": r"`owner.weights` is \[1\], not a mapping",
    "owner: {beta: 1, weights: {a: x}}": "`owner.weights.a` is 'x' — write a number",
    "owner: {beta: 1, budget: much}": "`owner.budget` is 'much' — write a whole number, or choose one of: auto",
    "owner: {beta: 1, budget: true}": "`owner.budget` is True — write a whole number, or choose one of: auto",
    "owner: {beta: 1, budget: null}": "`owner.budget` is None — write a whole number, or choose one of: auto",
    "owner: {beta: 1, note: 2024}": r"`owner.note` is 2024 — write text \(quote it\)",
    "owner:": "`owner` is None, not a mapping of keys",
    "owner: [1]": r"`owner` is \[1\], not a mapping of keys",
    "other: {}": "has no section `owner` — copy it from the repository's params.yaml",
    "- 1": "is not a mapping of sections",
    "": "is not a mapping of sections",
    "owner: {beta: 1": "is not valid YAML",
    "owner: {beta: 1, beta: 2}": "is not valid YAML",
    "owner:\n\tbeta: 1": "is not valid YAML",
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_told_by_name_in_one_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        section(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(ConfigError) as caught:
        build(Owner, {"beta": "x" * 500}, "owner")
    assert len(str(caught.value)) < 150


def test_what_dvc_exp_run_sets_is_read(tmp_path: Path):
    params = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", params)
    words = ("train.learning_rate=1e-5", "train.objective.beta=5E-2", "train.lora.rank=4", "+ingest.columns.prompt=ask")
    apply_overrides(params, list(words))
    train = load_section(params, "train", TrainConfig)
    assert (train.learning_rate, train.objective.beta, train.lora.rank) == (1e-5, 0.05, 4)
    assert load_section(params, "ingest", IngestConfig).columns.prompt == "ask"


def test_a_missing_file_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"params.yaml is missing — run from the checkout's root"):
        load_params(tmp_path / "params.yaml")


def test_bytes_that_are_not_utf_8_are_told(tmp_path: Path):
    (tmp_path / "params.yaml").write_bytes(b"owner: \xff\xfe")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_params(tmp_path / "params.yaml")
