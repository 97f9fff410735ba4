"""Is there new preference data? What moves is looked up: DVC imports, data sets of the hub, files that were merged.

A prefix of a bucket is an import: `dvc import-url --version-aware s3://bucket/feedback data/raw/feedback`, once.
All of it happens in a worktree, so that a look changes nothing in the checkout.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.dvc_project.graph import open_index
from flows.dvc_project.stage_run import environment
from flows.git_work.workspaces import git, params
from tasks.core import paths
from tasks.core.errors import ConfigError, NetworkError
from tasks.core.files import digest_of, write_text

INGEST = "ingest"  # the stage that reads raw data
HUB = "hub:"
_PINNED = re.compile(r"hub:(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<commit>[0-9a-f]{40})")
_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Version:
    """The preference data of a checkout as they stand now.

    Attributes:
        name: 12 digits of the digest of raw data and of the params that choose among them: a run's idempotency key.
        is_new: Whether dvc.lock was made from others.
    """

    name: str
    is_new: bool


def look(workspace: Path) -> Version:
    """Return which data the checkout at ``workspace`` holds.

    Raises:
        ConfigError: DVC cannot read the project, or it has no stage `ingest`.
    """
    node = next((node for node in open_index(workspace).stages if getattr(node, "name", "") == INGEST), None)
    if node is None:
        raise ConfigError(f"{workspace / 'dvc.yaml'} has no stage `{INGEST}`", "take it from the repository")
    is_new, found = not any(dep.hash_info for dep in node.deps), {}
    for dep in node.deps:
        if hasattr(dep, "read_params"):
            now = dep.read_params()
            is_new |= bool(dep.status())
        elif str(dep).endswith(".py"):
            continue  # code is no data
        else:
            was = dep.hash_info
            dep.save()
            now, is_new = dep.hash_info.value, is_new or dep.hash_info != was
        found[str(dep)] = now
    return Version(digest_of(repr(sorted(found.items())))[:_DIGITS], is_new)


def update(workspace: Path, say: Callable[[str], None]) -> None:
    """Bring everything that can move up to date: DVC's imports, and the commits of hub data sets in params.yaml.

    Raises:
        NetworkError: A source does not answer.
        ConfigError: DVC cannot read the project.
    """
    imports = [node.path_in_repo for node in open_index(workspace).stages if node.is_import]
    for path in sorted(imports):
        run_dvc(workspace, "update", "--quiet", path)
        say(f"looked up {path}")
    sources = params(workspace).get(INGEST, {}).get("sources") or []
    for source in sources if isinstance(sources, list) else [sources]:
        if str(source).startswith(HUB):
            _update_hub(workspace / paths.PARAMS, str(source), say)


def _update_hub(path: Path, source: str, say: Callable[[str], None]) -> None:
    """Write the commit that a data set's `main` stands at now in the place of the one that stands there."""
    if not (found := _PINNED.match(source)):
        return  # the stage says what is wrong with it
    commit = _newest(found["name"])
    if commit != found["commit"]:
        text = path.read_text(encoding="utf-8")
        write_text(path, text.replace(found[0], f"{HUB}{found['name']}@{commit}"))
        say(f"{found['name']}: {found['commit'][:_DIGITS]} → {commit[:_DIGITS]}")


def _newest(name: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported on demand

    try:
        commit = HfApi().dataset_info(name, revision="main", timeout=30).sha
    except (httpx.HTTPError, HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        told = f"the hub does not say where {name} stands ({type(error).__name__})"
        raise NetworkError(told, "check the network, and `ingest.sources`, and run again") from None
    if not commit:
        raise NetworkError(f"the hub does not say where {name} stands", "run again")
    return commit


def pair_ids(workspace: Path) -> set[str]:
    """Return the ids of the pairs that `ingest` left in ``workspace``, held out or not; none where it left none."""
    import pyarrow.parquet as pq

    found: set[str] = set()
    for name in ("train", "test"):
        path = workspace / paths.PAIRS / f"{name}.parquet"
        if path.is_file():
            found.update(pq.read_table(path, columns=["pair_id"]).column(0).to_pylist())
    return found


def known_pair_ids(workspace: Path, say: Callable[[str], None], whose: str = "the last run") -> set[str]:
    """Return the ids of the pairs that dvc.lock names, brought from the cache or the remote.

    Where neither holds them, they all count as new.
    """
    try:
        run_dvc(workspace, "pull", "--quiet", INGEST)
    except (NetworkError, ConfigError) as error:
        say(f"the pairs of {whose} are not to be had, so all of them count as new ({error})")
        return set()
    return pair_ids(workspace)


def pairs_locked(repository: Path, commit: str) -> str:
    """Return the digests of what `ingest` made by dvc.lock of ``commit``; empty where it names none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        lock = YAML(typ="safe").load(git(repository, "show", f"{commit}:dvc.lock"))
        return str([out["md5"] for out in lock["stages"][INGEST]["outs"]])
    except (ConfigError, YAMLError, KeyError, TypeError):
        return ""


def run_dvc(workspace: Path, *words: str) -> str:
    """Run DVC in ``workspace`` and return what it printed.

    Raises:
        NetworkError: A remote or a source failed or does not answer.
        ConfigError: DVC refuses.
    """
    from flows.dvc_project.outcome import is_network_fault

    command: list[Any] = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or done.stderr.splitlines()[-1:]
    said = " ".join(line.removeprefix("ERROR: ") for line in errors) or f"exit code {done.returncode}"
    kind = NetworkError if is_network_fault(said) else ConfigError
    raise kind(f"`dvc {' '.join(words)}` in {workspace} failed: {said}", "run it there by hand to see more")
