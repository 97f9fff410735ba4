"""A registry in a folder, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.registry.registry import Registry
from tasks.registry.store import FolderStore


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(FolderStore(tmp_path / "registry"), "demo")


@pytest.fixture
def command(registry: Registry, capsys: pytest.CaptureFixture[str]):
    """Run a command in this process: status, output (JSON where asked for) and errors."""
    from tasks.registry.__main__ import main

    def call(*words: str):
        status = main([*words, "--root", registry.store.label])
        told = capsys.readouterr()
        is_json = "--json" in words and told.out
        return status, json.loads(told.out) if is_json else told.out, told.err

    return call
