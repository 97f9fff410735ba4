"""New data: the version of the data, hub commits, and sources that do not answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flows.dvc_project import new_data
from tasks.core.errors import ConfigError, NetworkError
from tests.flows.conftest import ROOT, dvc, git

OLD, NEW = "a" * 40, "b" * 40
YAML = """
stages:
  ingest:
    cmd: mkdir -p data/pairs
    deps: [code.py, tasks/core, data/raw]
    params: [ingest]
    outs: [data/pairs]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose one stage reads raw data, run once; only to be copied."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "data/raw").mkdir(parents=True)
    (folder / "tasks/core").mkdir(parents=True)
    files = {"dvc.yaml": YAML, "code.py": "", "tasks/core/files.py": ""}
    files |= {"data/raw/a.jsonl": "{}\n", "params.yaml": "ingest: {limit: 1}\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "init", "--quiet")
    dvc(folder, "init", "--quiet")
    dvc(folder, "repro", "--quiet")
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A copy of the project."""
    shutil.copytree(built, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


def test_the_version_changes_with_the_data_and_with_what_chooses_among_them_not_with_code(project: Path) -> None:
    first = new_data.data_version(project)
    assert not first.is_new
    for name in ("code.py", "tasks/core/files.py"):
        (project / name).write_text("# edited\n")
    assert new_data.data_version(project) == first
    (project / "data/raw/b.jsonl").write_text("{}\n")
    second = new_data.data_version(project)
    assert (second.is_new, second.name != first.name) == (True, True)
    (project / "data/raw/b.jsonl").unlink()
    (project / "params.yaml").write_text("ingest: {limit: 2}\n")
    third = new_data.data_version(project)
    assert third.is_new
    assert third.name not in (first.name, second.name)
    (project / "dvc.lock").unlink()
    assert new_data.data_version(project).is_new, "what never ran is new"


def test_a_project_without_the_stage_is_refused(project: Path) -> None:
    (project / "dvc.yaml").write_text(YAML.replace("ingest:\n    cmd", "other:\n    cmd"))
    with pytest.raises(ConfigError, match="has no stage `ingest`"):
        new_data.data_version(project)


def test_an_import_whose_source_is_gone_is_one_error(project: Path, tmp_path: Path) -> None:
    (tmp_path / "source.jsonl").write_text("{}\n")
    dvc(project, "import-url", "--quiet", str(tmp_path / "source.jsonl"), "data/raw/source.jsonl")
    (tmp_path / "source.jsonl").unlink()
    with pytest.raises(
        (ConfigError, NetworkError), match=r"`dvc update --quiet data/raw/source.jsonl.dvc` in .* failed"
    ):
        new_data.update_sources(project, lambda _: None)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as tells where a data set stands."""

    def do_GET(self) -> None:
        is_known = self.path.startswith("/api/datasets/org/name/revision/main")
        body = json.dumps({"id": "org/name", "sha": NEW, "siblings": []}).encode() if is_known else b"{}"
        is_page = self.path.startswith("/api/datasets/org/login/")
        body = b"<html>Log in to the proxy</html>" if is_page else body
        self.send_response(200 if is_known or is_page else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def update(project: Path, hub: str) -> subprocess.CompletedProcess[str]:
    code = "from pathlib import Path\nfrom flows.dvc_project import new_data\n"
    code += f"new_data.update_sources(Path({str(project)!r}), print)"
    env = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(project / "hf")}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_a_hub_data_set_is_moved_to_the_commit_that_main_stands_at(project: Path, hub: str) -> None:
    text = f"ingest:\n  sources: [demo, {{path: 'hub:org/name@{OLD}#train', weight: 0.5}}]  # kept\n"
    (project / "params.yaml").write_text(text)
    done = update(project, hub)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"org/name: {OLD[:12]} → {NEW[:12]}\n"
    assert (project / "params.yaml").read_text() == text.replace(OLD, NEW)
    assert update(project, hub).stdout == ""
    (project / "params.yaml").write_text(f"ingest: {{sources: ['hub:org/name@{OLD}']}}\n")
    assert update(project, hub).stdout == done.stdout


def test_a_hub_that_does_not_know_the_data_set_is_one_error(project: Path, hub: str) -> None:
    (project / "params.yaml").write_text(f"ingest: {{sources: 'hub:org/other@{OLD}'}}\n")
    done = update(project, hub)
    assert "has no data set org/other at main, or does not show it (404)" in done.stderr
    assert OLD in (project / "params.yaml").read_text()


def test_a_page_in_place_of_the_hub_s_answer_is_a_network_fault(project: Path, hub: str) -> None:
    (project / "params.yaml").write_text(f"ingest: {{sources: 'hub:org/login@{OLD}'}}\n")
    done = update(project, hub)
    assert "NetworkError: the Hub names no commit of data set org/login at main" in done.stderr
