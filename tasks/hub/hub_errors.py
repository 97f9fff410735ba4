"""The errors of the Hugging Face Hub's client, as errors that a user can fix."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from tasks.core.errors import ConfigError, NetworkError

_NOT_SHOWN = (401, 403, 404)  # the Hub answers 401 and 404 alike for what is private or absent
_TIMEOUT_S = 10


@contextlib.contextmanager
def asking_hub(what: str, advice: str) -> Iterator[None]:
    """Turn what goes wrong while the Hub is asked into our errors; an error of ours passes.

    Args:
        what: What it is asked for, as in `OWNER/NAME at REVISION`.
        advice: What to do where the Hub has no such thing, or refuses.

    Raises:
        ConfigError: The Hub has no such repository or revision, does not show it, or the name is malformed.
        NetworkError: The Hub does not answer, or is switched off.
    """
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported on demand

    hub = f"the Hub ({constants.ENDPOINT})"
    try:
        yield
    except errors.HFValidationError as error:
        raise ConfigError(f"{what} is no name on the Hub: {_first_line(error)}", advice) from None
    except errors.OfflineModeIsEnabled:
        raise NetworkError(
            f"the Hub is switched off by HF_HUB_OFFLINE, but is needed for {what}", "unset HF_HUB_OFFLINE"
        ) from None
    except (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise _no_answer(hub, what, error) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        if status in _NOT_SHOWN:
            raise ConfigError(f"{hub} has no {what}, or does not show it ({status})", advice) from None
        raise NetworkError(f"{hub} fails for {what} ({status or _first_line(error)})", "run again later") from None
    except httpx.HTTPError as error:  # the class above is one of these
        raise _no_answer(hub, what, error) from None


def dataset_commit(name: str, revision: str) -> str:
    """Return the commit that a branch or tag of a data set points at now.

    Raises:
        ConfigError: There is no such data set or revision.
        NetworkError: The Hub does not answer.
    """
    from huggingface_hub import HfApi

    what = f"data set {name} at {revision}"
    with asking_hub(what, "correct `ingest.sources`, or set HF_TOKEN to see it"):
        try:
            commit = HfApi().dataset_info(name, revision=revision, timeout=_TIMEOUT_S).sha
        except json.JSONDecodeError:  # a page of something before the Hub, such as a proxy
            commit = None
    if not commit:
        raise NetworkError(f"the Hub names no commit of {what}", "run again later")
    return commit


def _no_answer(hub: str, what: str, error: Exception) -> NetworkError:
    advice = "check HF_ENDPOINT and the network, and run again"
    return NetworkError(f"{hub} does not answer for {what} ({_first_line(error)})", advice)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
