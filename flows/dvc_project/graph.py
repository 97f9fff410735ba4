"""The DVC project before a run: its stages in order, and why one of them is stale.

This module only reads, in this process and without DVC's lock; stages run as `dvc` commands.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.nested import flatten
from tasks.telemetry import registration

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml.

    Attributes:
        name: Its name in dvc.yaml.
        targets: The arguments of `dvc repro --single-item`: the .dvc files of tracked data (`data/raw/….dvc`) that
            the stage reads, then the stage.
        uses_gpu: Whether it uses a GPU if there is one (`meta: {uses: gpu}` in dvc.yaml).
    """

    name: str
    targets: tuple[str, ...]
    uses_gpu: bool = False


@dataclasses.dataclass(frozen=True)
class Staleness:
    """Whether a stage is stale, and why.

    Attributes:
        why: What changed since it last ran; empty if the stage is up to date.
        is_in_cache: Whether the local cache holds all outputs that dvc.lock names.
        lost: Missing dependencies that no stage makes: `dvc repro --pull` would ignore them and report the stage
            as unchanged.
    """

    why: str
    is_in_cache: bool
    lost: tuple[str, ...] = ()


def stages_in_order(workspace: Path) -> tuple[Stage, ...]:
    """Return the stages of the project at ``workspace`` in topological order; dvc.yaml breaks ties.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    index, stages = open_index(workspace), []
    for node in stage_nodes(index):
        files = sorted(source.path_in_repo for source in index.graph.successors(node) if not source.cmd)
        stages.append(Stage(node.name, (*files, node.name), (node.meta or {}).get("uses") == "gpu"))
    return tuple(stages)


def stage_nodes(index: Any) -> list[Any]:
    """Return DVC's stage objects of an index in topological order; dvc.yaml breaks ties."""
    waiting = [node for node in index.graph if node.cmd]
    needs = {node: {source for source in index.graph.successors(node) if source.cmd} for node in waiting}
    order: list[Any] = []
    while waiting:
        ready = next(node for node in waiting if needs[node].issubset(order))  # DVC refuses cycles
        waiting.remove(ready)
        order.append(ready)
    return order


def staleness_of(workspace: Path, stage: str) -> Staleness:
    """Return why ``stage`` would run now, and whether the cache holds the outputs that dvc.lock names.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    index = open_index(workspace)
    node = next(node for node in index.stages if getattr(node, "name", "") == stage)
    reasons = list(reasons_of(node, node.deps))
    if any(dep.hash_info for dep in node.deps):  # it ran before, so its outputs were there
        reasons += [change for out in node.outs for change in changes_of(out)]
    if node.always_changed and not reasons:
        reasons += registry_faults(workspace)
    is_in_cache = all(out.hash_info and not out.changed_cache() for out in node.outs)
    made = [Path(out.fs_path) for out in index.outs]
    lost = tuple(str(dep) for dep in node.deps if not dep.exists and not overlaps(Path(dep.fs_path), made))
    return Staleness(in_one_line(reasons), is_in_cache, lost)


def registry_faults(workspace: Path) -> list[str]:
    """Return why `register`, of which DVC knows no change, runs all the same: the registry lacks its version."""
    version = registration.look_up(workspace)
    return [str(version or registration.NOT_HERE)] if version is None or version.fault else []


def in_one_line(reasons: list[str]) -> str:
    """Return the first three reasons in one line, and how many more there are."""
    more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return "; ".join(reasons[:_SHOWN]) + more


@contextlib.contextmanager
def dvc_errors(workspace: Path) -> Iterator[None]:
    """Turn an error of DVC into one of ours.

    Raises:
        ConfigError: DVC cannot read the project at ``workspace``.
    """
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        raise ConfigError(f"DVC cannot read {workspace.resolve()}: {error}", "`dvc status` shows where") from error


def open_repo(workspace: Path) -> Any:
    """Return DVC's view of the project in ``workspace``, wherever this process works."""
    from dvc.repo import Repo

    from flows.dvc_project.run_cache import site_cache

    return Repo(str(workspace), config={"core": {"site_cache_dir": site_cache(workspace)}})


def open_index(workspace: Path) -> Any:
    """Return DVC's index of the project as it is now, with its graph checked.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    with dvc_errors(workspace):
        index = open_repo(workspace).index
        index.check_graph()
    return index


def overlaps(path: Path, others: Iterable[Path]) -> bool:
    """Tell whether ``path`` is, contains or is inside one of the others."""
    return any(path.is_relative_to(other) or other.is_relative_to(path) for other in others)


def is_code(dep: Any) -> bool:
    """Tell whether a stage's dependency is code: a Python file, or a room under tasks/."""
    path = Path(dep.def_path)
    return path.suffix == ".py" or path.parts[:1] == ("tasks",)


def reasons_of(node: Any, deps: Iterable[Any]) -> Iterator[str]:
    """Yield what changed in a stage and in ``deps``; a stage without a hash in dvc.lock has never run."""
    if not any(dep.hash_info for dep in node.deps):
        yield "it has not run here before"
        return
    if node.changed_stage():
        yield "its command changed"
    if node.is_callback:
        yield "it runs always"
    for dep in deps:
        if not hasattr(dep, "read_params"):
            yield from changes_of(dep)
        elif dep.status():
            locked, current = flatten(dep.hash_info.value or {}), flatten(dep.read_params())
            for key in sorted(locked.keys() | current.keys()):
                if locked.get(key) != current.get(key):
                    yield f"{key}: {locked.get(key, 'absent')} → {current.get(key, 'absent')}"


def changes_of(item: Any) -> Iterator[str]:
    """Yield what changed in a dependency or an output, as `PATH is missing`."""
    phrases = {"modified": "changed", "deleted": "is missing", "new": "is new", "not in cache": "is not in the cache"}
    for path, change in item.status().items():
        yield f"{path} {phrases.get(change, change)}"
