"""What stands around the house is true: pins, packages, Makefile, hooks, workflows, deployments."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

from tests.rules.source import ROOT, dotted, modules, tracked

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]
    return {canonicalize_name(pin.name): pin for pin in found}


def installed_tree() -> dict[str, str]:
    """Name and version of everything that the project asks for, directly or through others."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    to_visit = [("dpo-pipeline", extra) for extra in ("", "dev", "hygiene", "judge")]
    while to_visit:
        name, extra = to_visit.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        about = importlib.metadata.distribution(name)
        versions[name] = about.version.partition("+")[0]
        for text in about.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                to_visit += [(canonicalize_name(needed.name), wanted) for wanted in ("", *needed.extras)]
    del versions["dpo-pipeline"]
    return versions


def test_every_pin_is_one_version_without_a_local_build() -> None:
    assert [str(pin) for pin in pins().values() if not re.fullmatch(r"==[\w.!]+", str(pin.specifier))] == []


def test_the_whole_tree_is_pinned_and_installed_as_pinned() -> None:
    pinned, tree = pins(), installed_tree()
    builds = ("nvidia-", "triton", "cuda-")  # torch's own, of a CUDA build, which pins them itself
    unpinned = [name for name in tree if name not in pinned and not name.startswith(builds) and name != "setuptools"]
    assert unpinned == [], "add these to constraints.txt"
    differing = [
        f"{name} {version}" for name, version in tree.items() if name in pinned and not _allows(pinned[name], version)
    ]
    assert differing == [], "installed here in another version than constraints.txt pins"


def _allows(pin: Requirement, version: str) -> bool:
    return pin.specifier.contains(version, prereleases=True)


def test_the_pins_fit_what_pyproject_asks_for_and_solve_the_known_traps() -> None:
    pinned = pins()
    extras = PROJECT["optional-dependencies"]
    asked = [
        Requirement(text) for text in [*PROJECT["dependencies"], *extras["dev"], *extras["hygiene"], *extras["judge"]]
    ]
    for requirement in asked:
        (version,) = (clause.version for clause in pinned[canonicalize_name(requirement.name)].specifier)
        assert requirement.specifier.contains(version), f"{requirement} against {version}"
    assert {"fastapi", "sqlalchemy", "prefect"} <= {requirement.name for requirement in asked}


def test_pyproject_finds_every_package() -> None:
    assert PYPROJECT["tool"]["setuptools"]["packages"] == {"find": {"include": ["flows*", "tasks*"]}}
    folders = {path.parent for path in modules("tasks", "flows")}
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in modules("tasks", "flows")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_deployments_load_by_module_entrypoint_and_their_parameters_are_described() -> None:
    from prefect import Flow
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint("flows.pipeline.pipeline")
    assert isinstance(flow, Flow)
    assert flow.name == "pipeline"
    assert flow.description
    undescribed = [name for name, about in flow.parameters.properties.items() if not about.get("description")]
    assert undescribed == [], "these show without a word in Prefect's form"


def test_somebody_is_told_of_every_flow_that_fails() -> None:
    from prefect import Flow

    from flows.prefect_ui import automations

    every = [vars(importlib.import_module(dotted(path))) for path in modules("flows")]
    flows = {one.name for names in every for one in names.values() if isinstance(one, Flow)}
    assert set(automations.FLOWS) == flows


def test_nothing_tracked_names_a_folder_of_one_machine() -> None:
    places = re.compile("|".join(("(?<![\\w.])/" + word) for word in ("work/", "root/", "Users/", "home/[a-z]+/")))
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "replace")
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in places.finditer(text) if path != Path(__file__)]
    assert found == []


def test_make_refuses_a_python_that_is_too_old_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    words = ["make", "test", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MAKEFLAGS": ""})
    assert done.returncode != 0
    assert "older than 3.11 — install Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_environment_that_an_interrupted_install_left_is_built_anew(tmp_path: Path) -> None:
    """With a pip that notes its calls in place of the real one: nothing is downloaded."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "python").write_text(
        "#!/bin/sh\n"
        f'if [ "$2" = venv ]; then mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; touch "$4/built"; exit 0; fi\n'
        'if [ "$2" = pip ]; then [ "$3" = --version ] || echo "$@" >> installs; exit 0; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    (tmp_path / "python").chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "gone")
    stamp = ".venv/.installed-with-python"
    words = ["make", stamp, f"PYTHON={tmp_path / 'python'}"]
    (tmp_path / ".venv" / "bin" / "python").unlink()
    for _ in range(2):
        subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, env={**os.environ, "MAKEFLAGS": ""})
    assert (tmp_path / ".venv" / "built").exists()
    installs = (tmp_path / "installs").read_text().splitlines()
    assert installs == ["-m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[dev,hygiene,judge]"]


@pytest.mark.parametrize("script", [".ci/run"])
def test_scripts_are_executable_and_parse(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_the_workflow_runs_what_people_run() -> None:
    workflow = YAML(typ="safe").load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run", "make nightly"]
    assert all(re.search(r"@(v\d+|[0-9a-f]{40})$", step["uses"]) for step in steps if "uses" in step)


def test_the_hooks_run_the_environments_own_tools_as_make_lint_does() -> None:
    hooks = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("lint: $(INSTALLED)")[2].partition("\n\n")[0]
    assert tools == {line.strip("\t@").split()[0] for line in recipe.splitlines() if line.strip()}


def test_dvc_keeps_quiet_and_has_a_remote_beside_the_runs() -> None:
    text = (ROOT / ".dvc" / "config").read_text(encoding="utf-8")
    for line in ("analytics = false", "autostage = false", "check_update = false", "remote = local"):
        assert line in text
    assert "url = ../runs/dvc-remote" in text
    ignored = (ROOT / ".dvcignore").read_text(encoding="utf-8").split()
    assert {"__pycache__/", "*.py[co]", "cache-*.arrow"} <= set(ignored)
