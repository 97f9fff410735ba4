"""Fixtures for every test: offline, no analytics, the shared real inputs, tiny models."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DVC_NO_ANALYTICS="1",
    DO_NOT_TRACK="1",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    TOKENIZERS_PARALLELISM="true",
)

import pytest

ROOT = Path(__file__).resolve().parent.parent
DVC_CONFIG = """
[core]
    analytics = false
    autostage = false
    check_update = false
    remote = store
['remote "store"']
    url = ../../store
"""  # of a small project, whose remote lies beside it
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data, models and tokenizers beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"real inputs are not beside this checkout ({SHARED} is absent)")
    return SHARED


@pytest.fixture
def logging_put_back() -> Iterator[None]:
    """Undo what the doors of stages, opened in this process, set up of logging."""
    root, ours = logging.getLogger(), logging.getLogger("tasks")
    levels = root.level, ours.level
    yield
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
