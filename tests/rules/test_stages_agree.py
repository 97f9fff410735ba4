"""Stage = module = params section = entry of dvc.yaml, and dvc.yaml tells DVC all it has to know."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from tasks.core import paths
from tasks.core.params import load_params
from tests.rules import closure
from tests.rules.source import ROOT, SECTIONS, STAGES, tree_of

NOT_HASHED = {"PARAMS", "LOCK", "RUNS", "RECEIPTS"}
DOCUMENT = closure.load()
LONGEST_DOOR = 170
READS_ALL_PARAMS = ("report", "register")
READS_MORE = {"respond": {"encode"}}  # prompts are rendered, and answers end, as encode's template says
ON_GPU = ("reference", "train", "respond", "benchmarks", "qualify", "winrate")
QUALIFY_READS = {"encode", "winrate.judge", "winrate.qualification", "winrate.rules", "winrate.tie_margin"}
ADAPTERS_READS = {"train.init_adapter", "respond.champion", "ingest.test_share", "ingest.split_seed"}


def entry(stage: str) -> Any:
    return DOCUMENT["stages"][stage]


def outs(stage: str) -> list[str]:
    return [out if isinstance(out, str) else next(iter(out)) for out in entry(stage)["outs"]]


def bound_paths(stage: str) -> set[str]:
    """The standard paths that the modules of a stage name, those of the hall left out."""
    modules = [ROOT / dep for dep in closure.imported_files(stage) if dep.endswith(".py") and "/core/" not in dep]
    names = {
        node.attr
        for module in modules
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "paths"
    }
    return {getattr(paths, name).as_posix() for name in names - NOT_HASHED}


def test_dvc_yaml_holds_the_stages_in_the_order_of_the_data() -> None:
    assert tuple(DOCUMENT["stages"]) == STAGES


def test_params_yaml_has_a_section_a_stage_but_adapters_and_runtime_and_no_other() -> None:
    assert set(load_params(ROOT / "params.yaml")) == {*SECTIONS, "runtime"}


def test_every_module_directly_in_tasks_is_a_stage() -> None:
    assert {path.stem for path in (ROOT / "tasks").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_the_command_is_the_module_and_nothing_else(stage: str) -> None:
    assert entry(stage)["cmd"] == f"python -m tasks.{stage}"
    assert set(entry(stage)) <= {"cmd", "desc", "deps", "params", "outs", "meta", "always_changed"}
    assert entry(stage).get("meta") == ({"uses": "gpu"} if stage in ON_GPU else None)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_hold_the_import_closure(stage: str) -> None:
    missing, unneeded = closure.differences(stage, entry(stage))
    told = "".join(f"\n      - {dep}" for dep in missing)
    assert not missing, f"add to the deps of {stage} (or run `python -m tests.rules.closure --write`):{told}"
    assert not unneeded, f"{stage} does not import these any more: {unneeded}"


@pytest.mark.parametrize("stage", STAGES)
def test_every_folder_that_a_stage_binds_is_a_dep_or_an_out_and_no_other(stage: str) -> None:
    data = {dep for dep in entry(stage)["deps"] if not dep.startswith("tasks/")} - {"data/raw"}
    assert bound_paths(stage) == data | set(outs(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_lists_the_params_that_it_reads_and_never_runtime(stage: str) -> None:
    listed = set(entry(stage)["params"])
    if stage == "adapters":  # has no section: it reads keys of the stages that it serves
        assert listed == ADAPTERS_READS
        return
    if stage == "qualify":  # nor has this one: it reads what says who judges
        assert listed == QUALIFY_READS
        return
    assert stage in listed
    assert listed <= set(SECTIONS)
    if stage not in READS_ALL_PARAMS:
        assert listed == {stage} | READS_MORE.get(stage, set())


def test_no_two_stages_write_the_same_folder_and_all_is_cached() -> None:
    written = [out for stage in STAGES for out in outs(stage)]
    assert len(written) == len(set(written))
    flags = {stage: dict(out) for stage in STAGES for out in entry(stage)["outs"] if not isinstance(out, str)}
    assert flags == {}


def test_register_alone_runs_always_for_only_the_registry_knows_what_it_holds() -> None:
    assert [stage for stage in STAGES if entry(stage).get("always_changed")] == ["register"]


def test_metrics_and_plots_stand_at_the_top_and_lie_in_cached_folders() -> None:
    written = [Path(out) for stage in STAGES for out in outs(stage)]
    shown = [Path(path) for path in DOCUMENT["metrics"]]
    shown += [Path(path) for plot in DOCUMENT["plots"] for about in plot.values() for path in about["y"]]
    assert shown
    assert [path for path in shown if not any(path.is_relative_to(out) for out in written)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_file_has_the_shape_of_all_stage_files(stage: str) -> None:
    tree = tree_of(ROOT / "tasks" / f"{stage}.py")
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {"run", "main"} <= set(functions)
    if stage != "register":  # whose folders are the registry's Sources
        assert "Folders" in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    length = len((ROOT / "tasks" / f"{stage}.py").read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST_DOOR, "a stage file is a door: move its work into a room"
    text = ast.get_docstring(tree) or ""
    assert [word for word in ("reads:", "writes:", "params:", f"python -m tasks.{stage}") if word not in text] == []
    assert len(functions["main"].body) <= 5, "main() binds paths and params, no more"


def test_the_closure_follows_imports_in_functions_packages_and_files_named_beside(tmp_path: Path) -> None:
    room = tmp_path / "tasks" / "room"
    (room / "metric").mkdir(parents=True)
    for path in (tmp_path / "tasks" / "__init__.py", room / "__init__.py", room / "metric" / "__init__.py"):
        path.write_text("")
    (tmp_path / "tasks" / "stage.py").write_text("def f():\n    from tasks.room import one\n")
    (room / "one.py").write_text("from tasks.room.two import g\nPAGE = 'page.css'\nWORD = 'metric'\n")
    (room / "two.py").write_text("from pathlib import Path\nM = Path(__file__).parent / 'metric'\n")
    (room / "metric" / "metric.py").write_text("import tasks.room.three\n")
    (room / "three.py").write_text("")
    (room / "unused.py").write_text("")
    (room / "page.css").write_text("")
    assert closure.imported_files("stage", tmp_path) == (
        "tasks/room/metric/metric.py",
        "tasks/room/one.py",
        "tasks/room/page.css",
        "tasks/room/three.py",
        "tasks/room/two.py",
        "tasks/stage.py",
    )
    assert closure.stage_deps("stage", tmp_path) == ("tasks/room", "tasks/stage.py")


def test_writing_the_closure_keeps_comments_data_deps_and_order(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("")
    (tmp_path / "tasks" / "one.py").write_text("")
    text = "# head\nstages:\n  one:  # first\n    cmd: x\n    deps:\n      - data/raw\n      - tasks/gone.py\n"
    text += "    outs:\n      - a\n"
    (tmp_path / "dvc.yaml").write_text(text)
    assert closure.explain(tmp_path) == [
        "one: add      - tasks/one.py",
        "one: remove   - tasks/gone.py",
    ]
    closure.write(tmp_path)
    expected = text.replace("      - tasks/gone.py\n", "      - tasks/one.py\n")
    assert (tmp_path / "dvc.yaml").read_text() == expected
