"""What went wrong with a call: whether it may pass, and what to do where it cannot."""

from __future__ import annotations

import datetime
import email.utils
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from tasks.core.errors import ConfigError

Kind = Literal["passing", "busy", "item", "final"]
PASSING: Kind = "passing"  # the same call may succeed later
BUSY: Kind = "busy"  # as PASSING, and fewer calls at once may help
ITEM: Kind = "item"  # this one prompt is not taken
FINAL: Kind = "final"  # no call like it will succeed
_PASSING = (408, 409, 425)
_TOO_LONG = ("context_length_exceeded", "maximum context length", "context size", "context window", "content_filter")
_MOST_SHOWN = 300  # characters of a server's text
_ADVICE = {
    401: "set the environment variable that `winrate.judge.key` names to a key of this endpoint",
    402: "pay the endpoint's bill, then run again: finished calls are kept",
    403: "use a key that may use this model",
    404: "correct `winrate.judge.model` or `base_url`, which usually ends in /v1",
}
_OTHER_ADVICE = "choose another model or endpoint, or correct `winrate.judge`"


class Fault(NamedTuple):
    """A call that failed.

    Attributes:
        kind: Whether it may pass.
        text: What happened, in one line.
        status: The HTTP status; 0 without an answer.
        retry_after: Seconds that the server asks to wait; None where it does not say.
    """

    kind: Kind
    text: str
    status: int = 0
    retry_after: float | None = None

    def error(self, endpoint: str) -> ConfigError:
        """Return the error of a run that cannot go on."""
        return ConfigError(
            f"{endpoint} refuses the judge's calls ({self.text})", _ADVICE.get(self.status, _OTHER_ADVICE)
        )


def call_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of the `openai` client by which a call fails."""
    import openai

    return (openai.APIError, ValueError)  # a ValueError: the answer is no JSON


def fault_of(error: Exception, clean: Callable[[str], str]) -> Fault:
    """Return what one of the :func:`call_errors` means.

    Args:
        error: The exception.
        clean: Takes the key out of a text.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        body = error.body or error.response.text
        return fault_of_status(error.status_code, body, clean)._replace(
            retry_after=_retry_after(error.response.headers)
        )
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return Fault(PASSING, _shortened(clean(f"{type(error).__name__}: {error}{cause}")))


def fault_of_status(status: int, body: Any, clean: Callable[[str], str]) -> Fault:
    """Return what an HTTP status that is no success means, with what the server says."""
    text = clean(f"{status}: {_message_of(body)}")
    return Fault(_kind_of(status, f"{body} {text}"), _shortened(text), status)


def _kind_of(status: int, text: str) -> Kind:
    if status == 429:
        return FINAL if "insufficient_quota" in text else BUSY
    if status in _PASSING or (status >= 500 and status != 501):
        return PASSING
    is_of_item = status in (400, 413, 422) and any(sign in text.lower() for sign in _TOO_LONG)
    return ITEM if is_of_item else FINAL


def _message_of(body: Any) -> str:
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        return str(inner.get("message") or inner) if isinstance(inner, Mapping) else str(inner)
    return str(body or "")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of the header Retry-After, which holds seconds or a date."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(value) - datetime.datetime.now(datetime.UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def no_completion(data: Any, clean: Callable[[str], str]) -> Fault:
    """Return the fault of an answer that is no chat completion, though its status says success."""
    return Fault(PASSING, _shortened(clean(f"the answer is no chat completion: {_message_of(data)}")), 200)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_SHOWN else line[: _MOST_SHOWN - 3] + "..."
