"""The DVC project before a run: its stages in order, and why one of them is stale.

This module only reads, in this process and without DVC's lock; stages run as `dvc` commands.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.nested import flatten

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml.

    Attributes:
        name: Its name in dvc.yaml.
        targets: The arguments of `dvc repro --single-item`: the .dvc files of tracked data (`data/raw/….dvc`) that
            the stage reads, then the stage.
        needs: The stages whose outputs it reads.
        uses_gpu: Whether it uses a GPU if there is one (`meta: {uses: gpu}` in dvc.yaml).
    """

    name: str
    targets: tuple[str, ...]
    needs: tuple[str, ...]
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
    index = open_index(workspace)
    return tuple(_stage(index.graph, node) for node in stage_nodes(index))


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
    reasons = [*reasons_of(node, node.deps), *_lost_outs(node)]
    is_in_cache = all(out.hash_info and not out.changed_cache() for out in node.outs)
    made = [Path(out.fs_path) for out in index.outs]
    lost = tuple(str(dep) for dep in node.deps if not dep.exists and not is_made(Path(dep.fs_path), made))
    return Staleness(in_one_line(reasons), is_in_cache, lost)


def in_one_line(reasons: list[str]) -> str:
    """Return the first three reasons in one line, and how many more there are."""
    more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    return "; ".join(reasons[:_SHOWN]) + more


def open_index(workspace: Path) -> Any:
    """Return DVC's index of the project as it is now, with its graph checked.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        index = Repo(str(workspace)).index
        index.check_graph()
    except DvcException as error:
        raise ConfigError(f"DVC cannot read {workspace.resolve()}: {error}", "`dvc status` shows where") from error
    return index


def _stage(graph: Any, node: Any) -> Stage:
    sources = list(graph.successors(node))
    files = tuple(sorted(source.path_in_repo for source in sources if not source.cmd))
    needs = tuple(sorted(source.name for source in sources if source.cmd))
    return Stage(node.name, (*files, node.name), needs, (node.meta or {}).get("uses") == "gpu")


def is_made(path: Path, made: list[Path]) -> bool:
    """Tell whether ``path`` is, contains or is inside an output that DVC can restore."""
    return any(path.is_relative_to(out) or out.is_relative_to(path) for out in made)


def reasons_of(node: Any, deps: Iterable[Any]) -> Iterator[str]:
    """Yield what changed in a stage and in ``deps``; a stage without a hash in dvc.lock has never run."""
    if not any(dep.hash_info for dep in node.deps):
        yield "it has not run here before"
        return
    if node.changed_stage():
        yield "its command changed"
    if node.always_changed or node.is_callback:
        yield "it runs always"
    for dep in deps:
        status = dep.status()
        if hasattr(dep, "read_params"):
            yield from _changed_params(dep) if status else ()
        else:
            yield from (f"{path} {in_words(change)}" for path, change in status.items())


def _lost_outs(node: Any) -> Iterator[str]:
    """Yield the outputs that are missing or modified; none for a stage that never ran."""
    if any(dep.hash_info for dep in node.deps):
        for out in node.outs:
            yield from (f"{path} {in_words(change)}" for path, change in out.status().items())


def _changed_params(dep: Any) -> Iterator[str]:
    """Yield `section.key: old → new` for every value that differs from dvc.lock."""
    locked, current = flatten(dep.hash_info.value or {}), flatten(dep.read_params())
    for key in sorted(locked.keys() | current.keys()):
        if locked.get(key) != current.get(key):
            yield f"{key}: {locked.get(key, 'absent')} → {current.get(key, 'absent')}"


def in_words(change: str) -> str:
    """Return DVC's word for a change as a phrase."""
    phrases = {"modified": "changed", "deleted": "is missing", "new": "is new", "not in cache": "is not in the cache"}
    return phrases.get(change, change)
