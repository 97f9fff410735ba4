"""The kind `openai` of `winrate.judge`: a language model at an endpoint, and what it may cost."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from tasks.core.errors import ConfigError
from tasks.core.section import Rule, above, at_least, between, filled

OPENAI = "https://api.openai.com/v1"
DEFAULT_KEY = "OPENAI_API_KEY"
BLOCK = "prefect-block:"
_KEY_NAME = re.compile(rf"[A-Z_][A-Z0-9_]*|{BLOCK}[a-z0-9-]+")
_KEY_ADVICE = (
    f"write the NAME of an environment variable in capitals, or `{BLOCK}NAME`; the key itself stays out of files"
)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


@dataclasses.dataclass(frozen=True)
class OpenAIJudge:
    """A language model at an endpoint that speaks OpenAI's chat API.

    Attributes:
        model: Its name, as the endpoint knows it.
        base_url: The endpoint, up to and with `/v1`.
        key: Name of the environment variable with the key, or `prefect-block:NAME` of a Secret block. Where the
            default's variable is not set, no key is sent.
        answered_as: The name that the endpoint answers with, where it is another one; a date behind `model` is allowed
            anyway.
        criteria: What makes an answer better, in place of the default text.
        mode: `live` asks; `batch` submits the calls to the endpoint's batch API; `replay` reads the cache alone.
        cache: The file of the answers; it may be moved to another machine.
        seed: The sampling seed that is sent.
        max_tokens: The most tokens of a reply.
        timeout_s: Seconds until a call counts as failed.
        at_once: The most calls in flight.
        requests_per_minute: The most calls begun in a minute.
        tokens_per_minute: The most tokens in a minute, of prompts and replies.
        price_in: What a million tokens of prompts cost.
        price_out: What a million tokens of replies cost.
        max_cost: The most that a stage's verdicts may cost, in the unit of the prices, earlier runs included.
        max_calls: The most calls for a stage's verdicts, earlier runs and failed calls included.
    """

    kind: Literal["openai"]
    model: Annotated[str, filled("write the model's name, as the endpoint knows it")]
    base_url: Annotated[str, Rule(_is_address, "write an address such as http://127.0.0.1:8000/v1")] = OPENAI
    key: str = DEFAULT_KEY
    answered_as: str | None = None
    criteria: str = ""
    mode: Literal["live", "batch", "replay"] = "live"
    cache: Annotated[str, filled("name a file, for example runs/judge/answers.sqlite")] = "runs/judge/answers.sqlite"
    seed: Annotated[int, at_least(0)] = 0
    max_tokens: Annotated[int, at_least(16)] = 1024
    timeout_s: Annotated[float, above(0)] = 60.0
    at_once: Annotated[int, between(1, 256)] = 16
    requests_per_minute: Annotated[float, above(0, "or null")] | None = None
    tokens_per_minute: Annotated[float, above(0, "or null")] | None = None
    price_in: Annotated[float, at_least(0)] = 0.0
    price_out: Annotated[float, at_least(0)] = 0.0
    max_cost: Annotated[float, above(0, "or null")] | None = None
    max_calls: Annotated[int, at_least(1, "or null")] | None = None

    def __post_init__(self) -> None:
        """Refuse a secret in a place that others read, without repeating it, and a limit that nothing can reach.

        Raises:
            ConfigError: Naming the key.
        """
        if "@" in self.base_url or "?" in self.base_url:
            raise ConfigError(
                "`winrate.judge.base_url` holds a user, a password or a query",
                "write the address alone, and the key's place in `winrate.judge.key`",
            )
        if not _KEY_NAME.fullmatch(self.key):
            raise ConfigError("`winrate.judge.key` is no name of a key", _KEY_ADVICE)
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise ConfigError(
                f"`winrate.judge.max_cost` is {self.max_cost:g}, and no price is known",
                "write `price_in` and `price_out`, what a million tokens cost",
            )

    @property
    def endpoint(self) -> str:
        """The address without a slash at its end."""
        return self.base_url.rstrip("/")

    @property
    def is_metered(self) -> bool:
        """Whether its tokens have a price."""
        return self.price_in > 0 or self.price_out > 0

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Return what so many tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6
