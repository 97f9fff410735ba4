"""New preference data: update DVC imports and hub data sets, and compare the data with dvc.lock.

A prefix of a bucket becomes an import once, by `dvc import-url --version-aware s3://bucket/feedback data/raw/feedback`.
All of it happens in a worktree, so the checkout stays unchanged.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from flows.dvc_project.graph import is_code, open_index
from flows.dvc_project.outcome import is_network_fault
from flows.dvc_project.stage_run import DVC, environment
from flows.git_work.workspaces import params
from tasks.core import paths
from tasks.core.errors import ConfigError, NetworkError
from tasks.core.files import digest_of, write_text
from tasks.hub.hub_errors import dataset_commit
from tasks.telemetry.git_calls import git

INGEST = "ingest"  # the stage that reads raw data
_PINNED = re.compile(r"hub:(?P<name>[\w.-]+(?:/[\w.-]+)?)@(?P<commit>[0-9a-f]{40})")
_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Version:
    """The version of a checkout's preference data.

    Attributes:
        name: 12 digits of the digest of the raw data and of the params that select it: a run's idempotency key.
        is_new: Whether dvc.lock was made from another version.
    """

    name: str
    is_new: bool


def data_version(workspace: Path) -> Version:
    """Return the version of the data in the checkout at ``workspace``.

    Raises:
        ConfigError: DVC cannot read the project, or it has no stage `ingest`.
    """
    node = next((node for node in open_index(workspace).stages if getattr(node, "name", "") == INGEST), None)
    if node is None:
        raise ConfigError(f"{workspace / 'dvc.yaml'} has no stage `{INGEST}`", "take it from the repository")

    is_new, inputs = not any(dep.hash_info for dep in node.deps), {}
    for dep in node.deps:
        if hasattr(dep, "read_params"):
            inputs[str(dep)] = dep.read_params()
            is_new |= bool(dep.status())
        elif not is_code(dep):
            locked = dep.hash_info
            dep.save()  # hashes the files as they are now
            inputs[str(dep)] = dep.hash_info.value
            is_new |= dep.hash_info != locked
    return Version(digest_of(repr(sorted(inputs.items())))[:_DIGITS], is_new)


def update_sources(workspace: Path, log: Callable[[str], None]) -> None:
    """Update the sources that can change: DVC's imports, and the commits of hub data sets in params.yaml.

    Raises:
        NetworkError: A source does not answer.
        ConfigError: DVC cannot read the project.
    """
    imports = [node.path_in_repo for node in open_index(workspace).stages if node.is_import]
    for path in sorted(imports):
        run_dvc(workspace, "update", "--quiet", path)
        log(f"updated {path}")

    file = workspace / paths.PARAMS
    sources = params(workspace).get(INGEST, {}).get("sources") or []
    for source in sources if isinstance(sources, list) else [sources]:
        path = source.get("path") if isinstance(source, dict) else source
        if not (pinned := _PINNED.match(str(path))):
            continue  # a file; or `ingest` reports what is wrong with it
        commit = dataset_commit(pinned["name"], "main")
        if commit != pinned["commit"]:
            text = file.read_text(encoding="utf-8")
            write_text(file, text.replace(pinned[0], f"hub:{pinned['name']}@{commit}"))
            log(f"{pinned['name']}: {pinned['commit'][:_DIGITS]} → {commit[:_DIGITS]}")


def pair_ids(workspace: Path) -> set[str]:
    """Return the ids of the pairs that `ingest` wrote in ``workspace``, of both splits; none if it wrote none."""
    import pyarrow.parquet as pq

    ids: set[str] = set()
    for name in ("train", "test"):
        path = workspace / paths.PAIRS / f"{name}.parquet"
        if path.exists():  # a folder of files, or one file as an older version wrote it
            ids.update(pq.read_table(path, columns=["pair_id"]).column(0).to_pylist())
    return ids


def known_pair_ids(workspace: Path, log: Callable[[str], None], whose: str = "the last run") -> set[str]:
    """Return the ids of the pairs that dvc.lock names, from the cache or the remote; none if neither has them."""
    try:
        run_dvc(workspace, "pull", "--quiet", INGEST)
    except (NetworkError, ConfigError) as error:
        log(f"the pairs of {whose} are not available, so all of them count as new ({error})")
        return set()
    return pair_ids(workspace)


def digests_of_pairs(repository: Path, commit: str) -> str:
    """Return the digests of the outputs of `ingest` in the dvc.lock of ``commit``; empty if it names none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        lock = YAML(typ="safe").load(git(repository, "show", f"{commit}:dvc.lock"))
        return str([out["md5"] for out in lock["stages"][INGEST]["outs"]])
    except (ConfigError, YAMLError, KeyError, TypeError):
        return ""


def run_dvc(workspace: Path, *arguments: str) -> str:
    """Run DVC in ``workspace`` and return what it printed.

    Raises:
        NetworkError: A remote or a source failed or does not answer.
        ConfigError: The command failed for another reason.
    """
    command = [*DVC, *arguments]
    done = subprocess.run(command, cwd=workspace, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode == 0:
        sys.stderr.write(done.stderr)
        return done.stdout

    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or done.stderr.splitlines()[-1:]
    error = " ".join(line.removeprefix("ERROR: ") for line in errors) or f"exit code {done.returncode}"
    kind = NetworkError if is_network_fault(error) else ConfigError
    raise kind(f"`dvc {' '.join(arguments)}` in {workspace} failed: {error}", "run it there by hand to see more")
