"""The key of an endpoint: read from the environment or a Prefect block when it is needed, and kept out of all texts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from tasks.core.errors import ConfigError
from tasks.judges.llm.llm_choice import BLOCK, DEFAULT_KEY, OPENAI, OpenAIJudge

_FEWEST_CHARACTERS = 6  # of a key that is looked for in texts; a shorter one is a word


def read_key(choice: OpenAIJudge) -> str:
    """Return the key; an empty text where none is to be sent.

    Raises:
        ConfigError: The variable or the block that is named has none.
    """
    if choice.key.startswith(BLOCK):
        return _key_of_block(choice.key.removeprefix(BLOCK))
    key = os.environ.get(choice.key, "").strip()
    if not key and (choice.key != DEFAULT_KEY or choice.endpoint == OPENAI):
        raise ConfigError(
            f"the environment variable `{choice.key}`, which `winrate.judge.key` names, is not set",
            "set it to the endpoint's key where the stage runs",
        )
    return key


def _key_of_block(name: str) -> str:
    def value() -> str:
        from prefect.blocks.system import Secret

        return str(Secret.load(name).get())  # type: ignore[union-attr]

    try:
        with ThreadPoolExecutor(1) as thread:  # inside a running event loop, as calls are, Prefect returns a coroutine
            return thread.submit(value).result()
    except Exception as error:  # noqa: BLE001  # of Prefect, its client or its server
        raise ConfigError(
            f"the Prefect block `secret/{name}`, which `winrate.judge.key` names, cannot be read "
            f"({type(error).__name__})",
            "create it, set PREFECT_API_URL, or name an environment variable",
        ) from None


def without_key(text: str, key: str) -> str:
    """Return a server's text with the key taken out, should the server repeat it."""
    return text.replace(key, "***") if len(key) >= _FEWEST_CHARACTERS else text
