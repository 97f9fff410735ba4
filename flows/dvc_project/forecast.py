"""The forecast of a run, without running anything; unlike `dvc repro --dry`, it marks downstream stages stale.

Only hashes are compared: those of this checkout's code, params and raw data with dvc.lock, and in dvc.lock those of
each stage's outputs with those that the next stage was made from. So it works in a fresh clone without any data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from flows.dvc_project.graph import in_one_line, in_words, is_made, open_index, reasons_of, stage_nodes
from flows.dvc_project.run_cache import last_run
from tasks.core.files import digest_of

Forecast = Literal["unchanged", "restore", "fetch", "run", "may run"]
IN_WORDS: dict[Forecast, str] = {
    "unchanged": "up to date",
    "restore": "from the cache",
    "fetch": "from the remote, if it holds it",
    "run": "would run",
    "may run": "would run, unless its inputs stay the same",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """What a run would do with one stage.

    Attributes:
        stage: Its name.
        forecast: `unchanged`; `restore` its outputs from the local cache, or `fetch` them from the remote; `run`; or
            `may run`, unless a stage before it makes the same bytes again.
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
    forecaster = Forecaster([Path(out.fs_path) for out in index.outs])
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

    for node in stage_nodes(index):
        locked: dict[str, Any] = {}
        current: dict[str, Any] = {}
        for dep in node.deps:
            if hasattr(dep, "read_params"):
                locked |= _params_without(data_stage, dep.hash_info.value or {})
                current |= _params_without(data_stage, dep.read_params())
            elif (node.name != data_stage or dep.def_path.endswith(".py")) and not is_made(Path(dep.fs_path), made):
                locked[dep.def_path] = dep.hash_info.value
                if dep.exists:
                    dep.save()  # hashes the file as it is now
                current[dep.def_path] = dep.hash_info.value if dep.exists else None

        inputs.append((node.name, node.cmd, sorted(current.items())))
        if locked != current or node.changed_stage():
            changed.append(node.name)
    return digest_of(repr(inputs)), tuple(changed)


def _params_without(section: str, values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key.split(".")[0] != section}


class Forecaster:
    """Steps through the stages in order, and keeps the hash of each output that is known before the run."""

    def __init__(self, made: list[Path]) -> None:
        self._made = made
        self._hashes: dict[Path, Any] = {}
        self._stale: dict[Path, str] = {}

    def step(self, node: Any) -> Step:
        """Return what a run would do with the stage ``node``, and remember the hashes of its outputs."""
        reasons, stale = list(self._reasons(node)), sorted(set(self._stale_before(node)))
        if stale and not reasons:
            return self._remember(node, "may run", f"after {', '.join(stale)}", None)

        if not reasons:
            changes = [f"{path} {in_words(change)}" for out in node.outs for path, change in out.status().items()]
            if not changes:
                return self._remember(node, "unchanged", "", node.outs)
            is_here = all(out.hash_info and not out.changed_cache() for out in node.outs)
            return self._remember(node, "restore" if is_here else "fetch", in_one_line(changes), node.outs)

        if not stale and self._is_in_run_cache(node):
            return self._remember(node, "restore", in_one_line(reasons), node.outs)
        return self._remember(node, "run", in_one_line([*reasons, *[f"after {name}" for name in stale]]), None)

    def _remember(self, node: Any, what: Forecast, why: str, outs: Any) -> Step:
        """Keep the hashes of ``outs``; where it is None, the stage's outputs are unknown."""
        for out in node.outs:
            if outs is None:
                self._stale[Path(out.fs_path)] = node.name
        for out in outs or ():
            self._hashes[Path(out.fs_path)] = out.hash_info
        return Step(node.name, what, why)

    def _stale_before(self, node: Any) -> Iterator[str]:
        """Yield the stages before it whose new outputs are unknown."""
        for dep in node.deps:
            path = Path(dep.fs_path) if dep.fs_path else None
            for made, name in self._stale.items():
                if path and (path.is_relative_to(made) or made.is_relative_to(path)):
                    yield name

    def _reasons(self, node: Any) -> Iterator[str]:
        """Yield what changed among known inputs; a missing output counts by the hash that its stage would leave."""
        made = [dep for dep in node.deps if not hasattr(dep, "read_params") and is_made(Path(dep.fs_path), self._made)]
        yield from reasons_of(node, [dep for dep in node.deps if not any(dep is other for other in made)])
        for dep in made:
            path = Path(dep.fs_path)
            if path in self._hashes:
                if dep.hash_info and self._hashes[path] != dep.hash_info:
                    yield f"{dep} changed"
            elif not any(path.is_relative_to(out) or out.is_relative_to(path) for out in self._stale):
                # a path inside an output, or data with its own .dvc file: the files here count, if there are any
                yield from (f"{name} {in_words(change)}" for name, change in dep.status().items() if dep.exists)

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
