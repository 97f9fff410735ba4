"""What a run would do, told without running anything; staleness goes downstream, as `dvc repro --dry` has it not.

Only hashes are compared: those of this checkout's code, params and raw data with dvc.lock, and those of one stage's
output in dvc.lock with what the next one was made from. So a fresh clone without any data can be asked, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from flows.dvc_project.graph import in_words, is_made, open_index, reasons_of, stage_nodes, told
from flows.dvc_project.run_cache import last_run
from tasks.core.files import digest_of

Forecast = Literal["unchanged", "restore", "fetch", "run", "may run"]
IN_WORDS: dict[Forecast, str] = {
    "unchanged": "up to date",
    "restore": "from the cache",
    "fetch": "from the remote, if it holds it",
    "run": "would run",
    "may run": "would run, unless what it reads stays the same",
}


@dataclasses.dataclass(frozen=True)
class Step:
    """What would become of one stage.

    Attributes:
        stage: Its name.
        forecast: Nothing; its output brought back from the local cache, or asked of the remote; run; or run unless
            a stage before it makes the same bytes again.
        why: What changed, in words; empty where nothing did.
    """

    stage: str
    forecast: Forecast
    why: str

    @property
    def is_stale(self) -> bool:
        """Tell whether its result is not that of the checkout's code, params and data."""
        return self.forecast in ("run", "may run")


def forecast(workspace: Path) -> tuple[Step, ...]:
    """Return what `dvc repro` would do now, stage by stage in order.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    index = open_index(workspace)
    known = Known([Path(out.fs_path) for out in index.outs])
    return tuple(known.step(node) for node in stage_nodes(index))


def own_inputs(workspace: Path, data_stage: str) -> tuple[str, tuple[str, ...]]:
    """Return a digest of what the stages read besides data: code, params, commands; and those for which it changed.

    No run cache and no file that a stage made has a say in it, so it is the same on every machine.

    Args:
        workspace: The checkout to look at.
        data_stage: The stage that reads raw data: of it only code counts, for its params choose among the data.

    Raises:
        ConfigError: DVC cannot read the project.
    """
    index = open_index(workspace)
    made = [Path(out.fs_path) for out in index.outs]
    found, changed = [], []
    for node in stage_nodes(index):
        was: dict[str, Any] = {}
        now: dict[str, Any] = {}
        for dep in node.deps:
            if hasattr(dep, "read_params"):
                was |= _params_but_for(data_stage, dep.hash_info.value or {})
                now |= _params_but_for(data_stage, dep.read_params())
            elif (node.name != data_stage or dep.def_path.endswith(".py")) and not is_made(Path(dep.fs_path), made):
                was[dep.def_path] = dep.hash_info.value
                if dep.exists:
                    dep.save()
                now[dep.def_path] = dep.hash_info.value if dep.exists else None
        found.append((node.name, node.cmd, sorted(now.items())))
        if was != now or node.changed_stage():
            changed.append(node.name)
    return digest_of(repr(found)), tuple(changed)


def _params_but_for(section: str, values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key.split(".")[0] != section}


class Known:
    """What the stages so far would leave behind: for each output its hash, or that nobody can tell yet."""

    def __init__(self, made: list[Path]) -> None:
        self._made = made
        self._hashes: dict[Path, Any] = {}
        self._stale: dict[Path, str] = {}

    def step(self, node: Any) -> Step:
        """Return what would become of the stage ``node``, and remember what it would leave behind."""
        reasons, waits = list(self._reasons(node)), sorted(set(self._waits(node)))
        if waits and not reasons:
            return self._leave(node, "may run", f"after {', '.join(waits)}", None)
        if not reasons:
            if not any(out.status() for out in node.outs):
                return self._leave(node, "unchanged", "", node.outs)
            missing = told([f"{path} {in_words(change)}" for out in node.outs for path, change in out.status().items()])
            is_here = all(out.hash_info and not out.changed_cache() for out in node.outs)
            return self._leave(node, "restore" if is_here else "fetch", missing, node.outs)
        if not waits and self._recall(node):
            return self._leave(node, "restore", told(reasons), node.outs)
        return self._leave(node, "run", told([*reasons, *[f"after {name}" for name in waits]]), None)

    def _leave(self, node: Any, what: Forecast, why: str, outs: Any) -> Step:
        for out in node.outs:
            if outs is None:
                self._stale[Path(out.fs_path)] = node.name
        for out in outs or ():
            self._hashes[Path(out.fs_path)] = out.hash_info
        return Step(node.name, what, why)

    def _waits(self, node: Any) -> Iterator[str]:
        """Yield the stages whose new output nobody knows yet."""
        for dep in node.deps:
            path = Path(dep.fs_path) if dep.fs_path else None
            for made, name in self._stale.items():
                if path and (path.is_relative_to(made) or made.is_relative_to(path)):
                    yield name

    def _reasons(self, node: Any) -> Iterator[str]:
        """Yield what changed of what is known; an output that is missing here has the hash that its stage left."""
        comes = [dep for dep in node.deps if not hasattr(dep, "read_params") and is_made(Path(dep.fs_path), self._made)]
        yield from reasons_of(node, [dep for dep in node.deps if not any(dep is other for other in comes)])
        for dep in comes:
            path = Path(dep.fs_path)
            if path in self._hashes:
                if dep.hash_info and self._hashes[path] != dep.hash_info:
                    yield f"{dep} changed"
            elif not any(path.is_relative_to(made) or made.is_relative_to(path) for made in self._stale):
                # inside an output, or a data file with a .dvc of its own: what lies here counts, where it does
                yield from (f"{name} {in_words(change)}" for name, change in dep.status().items() if dep.exists)

    def _recall(self, node: Any) -> bool:
        """Tell whether the run cache holds this very run and the cache its outputs; ``node`` then has their hashes.

        DVC can look it up only where all that the stage reads lies here.
        """
        from dvc.stage.loader import StageLoader

        if not all(hasattr(dep, "read_params") or dep.exists for dep in node.deps):
            return False
        for dep in node.deps:
            dep.save()
        if found := last_run(node.repo.stage_cache, node):
            StageLoader.fill_from_lock(node, found)
            return all(not out.changed_cache() for out in node.outs)
        return False
