"""A registry in a folder and in a bucket, and the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.registry.stores.folder import FolderStore
from tasks.registry.stores.open_store import open_store
from tasks.registry.stores.store import Store
from tasks.registry.versions.registry import Registry
from tests import s3_server
from tests.s3_server import Server

BUCKET = "releases"
ROOT = f"s3://{BUCKET}/team"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(FolderStore(tmp_path / "registry"), "demo")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A real S3 server with one empty bucket; retries do not wait."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    with s3_server.serving(monkeypatch, BUCKET) as running:
        yield running


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of store, empty."""
    if request.param == "folder":
        return FolderStore(tmp_path / "registry")
    request.getfixturevalue("server")
    return open_store(ROOT)


@pytest.fixture
def command(registry: Registry, capsys: pytest.CaptureFixture[str]):
    """Run a command in this process: status, output (JSON where asked for) and errors."""
    from tasks.registry.__main__ import main

    def call(*words: str, root: str = registry.store.label):
        status = main([*words, "--root", root])
        output = capsys.readouterr()
        is_json = "--json" in words and output.out
        return status, json.loads(output.out) if is_json else output.out, output.err

    return call
