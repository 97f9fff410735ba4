"""The Hub's errors: what a user must correct is told apart from what may pass."""

from __future__ import annotations

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import httpx

from tasks.core.errors import ConfigError, DataError, NetworkError
from tasks.hub.hub_errors import asking_hub

REQUEST = httpx.Request("GET", "https://hub.example/api")


def answered(status: int) -> httpx.Response:
    return httpx.Response(status, request=REQUEST)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.HFValidationError("no such/name"), ConfigError, "model a/b is no name on the Hub: .* — correct it"),
        (
            errors.RepositoryNotFoundError("x", response=answered(404)),
            ConfigError,
            r"has no model a/b.* \(404\) — correct it",
        ),
        (
            errors.RevisionNotFoundError("x", response=answered(404)),
            ConfigError,
            r"has no model a/b.* \(404\) — correct it",
        ),
        (errors.HfHubHTTPError("x", response=answered(403)), ConfigError, r"does not show it \(403\) — correct it"),
        (errors.HfHubHTTPError("x", response=answered(503)), NetworkError, r"fails for model a/b \(503\)"),
        (errors.OfflineModeIsEnabled("x"), NetworkError, "switched off by HF_HUB_OFFLINE"),
        (errors.LocalEntryNotFoundError("x"), NetworkError, r"does not answer for model a/b \(x\)"),
        (httpx.ConnectTimeout("slow\nand more"), NetworkError, r"does not answer for model a/b \(slow\)"),
        (ConnectionError(), NetworkError, r"does not answer for model a/b \(ConnectionError\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_of_the_client_is_one_of_ours(error: Exception, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message), asking_hub("model a/b", "correct it"):
        raise error


@pytest.mark.parametrize("error", [DataError("ours"), KeyError("a bug")])
def test_our_errors_and_bugs_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, asking_hub("model a/b", "correct it"):
        raise error
    assert caught.value is error
