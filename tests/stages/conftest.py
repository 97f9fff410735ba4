"""A stage's door sets up logging for its process; here many doors open in one."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _logging_is_put_back(logging_put_back: None) -> None:
    """Each test of a stage leaves logging as it was."""
