"""The kinds of `winrate.judge` that are models: `own`, `reward_model` and `reward_endpoint`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from tasks.core.errors import ConfigError
from tasks.core.runtime import RuntimeConfig
from tasks.core.section import Rule, above, at_least, between, filled
from tasks.rowstore.row_store import RowStore

_ADDRESS_ADVICE = "write an address such as http://127.0.0.1:8000, with nothing secret in it"
_KEY_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


@dataclasses.dataclass(frozen=True)
class OwnJudge:
    """A head on the hidden states of the pinned base, fitted on the training pairs.

    Attributes:
        pairs: The most training pairs that it is fitted on; each costs two forward passes of the base.
        dead_band: Scores (log-odds) that differ by so much or less are a tie.
    """

    kind: Literal["own"]
    pairs: Annotated[int, at_least(1)] = 20_000
    dead_band: Annotated[float, at_least(0)] = 0.0


@dataclasses.dataclass(frozen=True)
class RewardModelJudge:
    """A reward model: a sequence classifier of transformers with one label.

    Attributes:
        source: A folder in transformers' format, or a hub id (`organisation/name`).
        revision: The hub commit, 40 hex digits; null for a folder.
        dead_band: Scores that differ by so much or less are a tie.
    """

    kind: Literal["reward_model"]
    source: Annotated[str, filled("write a folder or a hub id")]
    revision: str | None = None
    dead_band: Annotated[float, at_least(0)] = 0.0


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_plain = parts.username is None and not parts.query
        return parts.scheme in ("http", "https") and bool(parts.hostname) and is_plain
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True)
class RewardEndpointJudge:
    """A reward model at an endpoint that speaks vLLM's pooling API (`/pooling`, task `classify`).

    Attributes:
        model: Its name, as the server knows it.
        base_url: The server's address, without `/pooling`.
        key: Name of the environment variable with the key; none is sent when empty.
        at_once: The most calls in flight.
        timeout_s: Seconds until a call counts as failed.
        dead_band: Scores that differ by so much or less are a tie.
    """

    kind: Literal["reward_endpoint"]
    model: Annotated[str, filled("write the model's name, as the server knows it")]
    base_url: Annotated[str, Rule(_is_address, _ADDRESS_ADVICE)]
    key: str = ""
    at_once: Annotated[int, between(1, 256)] = 16
    timeout_s: Annotated[float, above(0)] = 60.0
    dead_band: Annotated[float, at_least(0)] = 0.0

    def __post_init__(self) -> None:
        """Refuse a secret in params, without repeating it.

        Raises:
            ConfigError: `key` is no name of a variable.
        """
        if self.key and not _KEY_NAME.fullmatch(self.key):
            raise ConfigError(
                "`winrate.judge.key` is no name of an environment variable",
                "write the variable's NAME in capitals; the key itself stays out of files",
            )


ModelJudge = OwnJudge | RewardModelJudge | RewardEndpointJudge


@dataclasses.dataclass(frozen=True)
class ModelPlace:
    """Where a judge that is a model finds what it needs.

    Attributes:
        pairs: The folder that `ingest` wrote.
        tokens: The folder that `encode` wrote.
        base: The folder that `base` wrote.
        qualification: The folder that `qualify` writes; the fitted head of `own` lies there.
        runtime: How this machine is used.
    """

    pairs: Path
    tokens: Path
    base: Path
    qualification: Path
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)

    def rows(self, kind: str) -> RowStore | None:
        """Open this machine's store of rows of a kind; None where `runtime.row_store` is off."""
        return RowStore.open(self.runtime.row_store, kind) if self.runtime.row_store else None
