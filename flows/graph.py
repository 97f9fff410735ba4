"""What DVC knows before anything runs: the stages in order, and why one of them would run.

Only reading, in this process, without DVC's lock; what runs, runs as a `dvc` command of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml.

    Attributes:
        name: Its name in dvc.yaml.
        targets: What `dvc repro --single-item` is given: the data files tracked on their own
            (`data/raw/….dvc`) that the stage reads, then the stage.
        needs: The stages whose outputs it reads.
    """

    name: str
    targets: tuple[str, ...]
    needs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Look:
    """The state of a stage before its turn.

    Attributes:
        why: What changed since it last ran, in words; empty when nothing did.
        is_in_cache: Whether the outputs that dvc.lock names are all in the local cache.
        lost: Dependencies that are missing and that no stage makes: `dvc repro --pull` would pass
            over them, and call the stage unchanged.
    """

    why: str
    is_in_cache: bool
    lost: tuple[str, ...] = ()


def stages_in_order(workspace: Path) -> tuple[Stage, ...]:
    """Return the stages of the project at ``workspace``, each after those that it needs.

    Where the graph leaves a choice, the order of dvc.yaml decides.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    graph = _index(workspace).graph
    waiting = [_stage(graph, node) for node in graph if node.cmd]
    order: list[Stage] = []
    while waiting:
        done = {stage.name for stage in order}
        ready = next(stage for stage in waiting if done.issuperset(stage.needs))  # DVC refuses cycles
        waiting.remove(ready)
        order.append(ready)
    return tuple(order)


def look_at(workspace: Path, stage: str) -> Look:
    """Return why ``stage`` would run now, and whether the cache holds what dvc.lock says it made.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    index = _index(workspace)
    node = next(node for node in index.stages if getattr(node, "name", "") == stage)
    reasons = list(_reasons(node))
    is_in_cache = all(out.hash_info and not out.changed_cache() for out in node.outs)
    more = f" and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    made = [Path(out.fs_path) for out in index.outs]
    lost = tuple(str(dep) for dep in node.deps if not dep.exists and not _is_made(Path(dep.fs_path), made))
    return Look("; ".join(reasons[:_SHOWN]) + more, is_in_cache, lost)


def _index(workspace: Path) -> Any:
    """Return DVC's index of the project as it stands now, its graph checked."""
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
    return Stage(node.name, (*files, node.name), needs)


def _is_made(path: Path, made: list[Path]) -> bool:
    """Tell whether ``path`` is, holds or lies in something that DVC can bring back."""
    return any(path.is_relative_to(out) or out.is_relative_to(path) for out in made)


def _reasons(node: Any) -> Iterator[str]:
    """Yield what changed, in words; what has no hash in dvc.lock has never run."""
    if not any(dep.hash_info for dep in node.deps):
        yield "it has not run here before"
        return
    if node.changed_stage():
        yield "its command changed"
    for dep in node.deps:
        status = dep.status()
        if hasattr(dep, "read_params"):
            yield from _changed_params(dep) if status else ()
        else:
            yield from (f"{path} {_in_words(change)}" for path, change in status.items())
    for out in node.outs:
        yield from (f"{path} {_in_words(change)}" for path, change in out.status().items())


def _changed_params(dep: Any) -> Iterator[str]:
    """Yield `section.key: old → new` for every value that differs from dvc.lock."""
    was, now = _flat(dep.hash_info.value or {}), _flat(dep.read_params())
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            yield f"{key}: {was.get(key, 'absent')} → {now.get(key, 'absent')}"


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _in_words(change: str) -> str:
    words = {"modified": "changed", "deleted": "is missing", "new": "is new", "not in cache": "is not in the cache"}
    return words.get(change, change)
