"""Real tokenizers, loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pairs.samples import real_tokenizer


@pytest.fixture(scope="session")
def qwen(shared: Path) -> Any:
    """Byte-level BPE with ChatML and a default system message; no BOS."""
    return real_tokenizer(shared / "tokenizers/qwen2.5")


@pytest.fixture(scope="session")
def minimind(shared: Path) -> Any:
    """Byte-level BPE whose template writes an empty think block before every reply."""
    return real_tokenizer(shared / "tokenizers/minimind-6400")


@pytest.fixture(scope="session")
def stories(shared: Path) -> Any:
    """SentencePiece BPE that begins every text with BOS; no chat template."""
    return real_tokenizer(shared / "models/stories260K")
