"""A misbehaving endpoint, and judges that ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.judges.llm import endpoint
from tests.judges.llm.chat_server import ChatServer, chat_server


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as one:
        yield one


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for hundredths of a second between attempts."""
    monkeypatch.setattr(endpoint, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT_S", 0.05)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
