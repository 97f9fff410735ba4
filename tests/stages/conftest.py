"""A stage's door sets up logging for its process; here many doors open in one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.stages.responding import adapter, inputs, pinned, policy, tokens  # noqa: F401  # fixtures of respond's tests


@pytest.fixture(autouse=True)
def _logging_is_put_back(logging_put_back: None) -> None:
    """Each test of a stage leaves logging as it was."""


@pytest.fixture
def model(shared: Path, tmp_path: Path) -> Path:
    """A copy of a real model to break."""
    folder = tmp_path / "model"
    shutil.copytree(shared / "models/stories260K", folder)
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder
