"""The forecast of a run, without running anything; unlike `dvc repro --dry`, it marks downstream stages stale.

Only hashes are compared: those of this checkout's code, params and raw data with dvc.lock, and in dvc.lock those of
each stage's outputs with those that the next stage was made from. So it works in a fresh clone without any data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from flows.dvc_project.graph import (
    changes_of,
    in_one_line,
    is_code,
    open_index,
    overlaps,
    reasons_of,
    registry_faults,
    stage_nodes,
)
from flows.dvc_project.run_cache import last_run
from tasks.core.files import digest_of

Forecast = Literal["unchanged", "restore", "fetch", "ask", "run", "may run"]
IN_WORDS: dict[Forecast, str] = {
    "unchanged": "up to date",
    "restore": "from the cache",
    "fetch": "from the remote, if it holds it",
    "ask": "would register it where the registry lacks it",
    "run": "would run",
    "may run": "would run, unless its inputs stay the same",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """What a run would do with one stage.

    Attributes:
        stage: Its name.
        forecast: `unchanged`; `restore` its outputs from the local cache, or `fetch` them from the remote; `ask` the
            registry, which may lack the version; `run`; or `may run`, unless a stage before it makes the same bytes
            again.
        why: What changed; empty if nothing did.
    """

    stage: str
    forecast: Forecast
    why: str

    @property
    def is_stale(self) -> bool:
        """Tell whether its outputs are not those of the checkout's code, params and data."""
        return self.forecast in ("run", "may run")


def forecast(workspace: Path) -> tuple[Step, ...]:
    """Return what `dvc repro` would do now, one step per stage in order.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    index = open_index(workspace)
    forecaster = Forecaster(workspace, [Path(out.fs_path) for out in index.outs])
    return tuple(forecaster.step(node) for node in stage_nodes(index))


def inputs_besides_data(workspace: Path, data_stage: str) -> tuple[str, tuple[str, ...]]:
    """Return a digest of all code, params and commands of the stages, and the stages for which they changed.

    The digest depends on no run cache and on no file that a stage made, so it is the same on every machine.

    Args:
        workspace: The checkout to read.
        data_stage: The stage that reads raw data: only its code counts, since its params select the data.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    index = open_index(workspace)
    made = [Path(out.fs_path) for out in index.outs]
    inputs, changed = [], []

    def without_data(params: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in params.items() if key.split(".")[0] != data_stage}

    for node in stage_nodes(index):
        locked: dict[str, Any] = {}
        current: dict[str, Any] = {}
        for dep in node.deps:
            if hasattr(dep, "read_params"):
                locked |= without_data(dep.hash_info.value or {})
                current |= without_data(dep.read_params())
            elif (node.name != data_stage or is_code(dep)) and not overlaps(Path(dep.fs_path), made):
                locked[dep.def_path] = dep.hash_info.value
                if dep.exists:
                    dep.save()  # hashes the file as it is now
                current[dep.def_path] = dep.hash_info.value if dep.exists else None

        inputs.append((node.name, node.cmd, sorted(current.items())))
        if locked != current or node.changed_stage():
            changed.append(node.name)
    return digest_of(repr(inputs)), tuple(changed)


class Forecaster:
    """Steps through the stages in order, and keeps the hash of each output that is known before the run."""

    def __init__(self, workspace: Path, made: list[Path]) -> None:
        self._workspace = workspace
        self._made = made
        self._hashes: dict[Path, Any] = {}
        self._stale: dict[Path, str] = {}

    def step(self, node: Any) -> Step:
        """Return what a run would do with the stage ``node``, and remember the hashes of its outputs."""
        step = Step(node.name, *self._forecast(node))
        for out in node.outs:
            if step.is_stale:
                self._stale[Path(out.fs_path)] = node.name
            else:
                self._hashes[Path(out.fs_path)] = out.hash_info
        return step

    def _forecast(self, node: Any) -> tuple[Forecast, str]:
        reasons = list(self._reasons(node))
        paths = [Path(dep.fs_path) for dep in node.deps]
        stale = sorted({name for out, name in self._stale.items() if overlaps(out, paths)})
        if stale and not reasons:
            return "may run", f"after {', '.join(stale)}"

        if not reasons:
            changes = [change for out in node.outs for change in changes_of(out)]
            if node.always_changed and (faults := changes or registry_faults(self._workspace)):
                return "ask", in_one_line(faults)
            if not changes:
                return "unchanged", ""
            is_here = all(out.hash_info and not out.changed_cache() for out in node.outs)
            return "restore" if is_here else "fetch", in_one_line(changes)

        if not stale and self._is_in_run_cache(node):
            return "restore", in_one_line(reasons)
        return "run", in_one_line([*reasons, *[f"after {name}" for name in stale]])

    def _reasons(self, node: Any) -> Iterator[str]:
        """Yield what changed among known inputs; a missing output counts by the hash that its stage would leave."""
        made = [dep for dep in node.deps if not hasattr(dep, "read_params") and overlaps(Path(dep.fs_path), self._made)]
        yield from reasons_of(node, [dep for dep in node.deps if not any(dep is other for other in made)])
        for dep in made:
            path = Path(dep.fs_path)
            if path in self._hashes:
                if dep.hash_info and self._hashes[path] != dep.hash_info:
                    yield f"{dep} changed"
            elif dep.exists and not overlaps(path, self._stale):
                # a path inside an output, or data with its own .dvc file: the files here count, if there are any
                yield from changes_of(dep)

    def _is_in_run_cache(self, node: Any) -> bool:
        """Tell whether the run cache holds this run and the cache its outputs; ``node`` then has their hashes.

        DVC can look it up only if all inputs of the stage are here.
        """
        from dvc.stage.loader import StageLoader

        if not all(hasattr(dep, "read_params") or dep.exists for dep in node.deps):
            return False
        for dep in node.deps:
            dep.save()
        if run := last_run(node.repo.stage_cache, node):
            StageLoader.fill_from_lock(node, run)
            return all(not out.changed_cache() for out in node.outs)
        return False
