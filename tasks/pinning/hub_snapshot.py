"""A model of the Hugging Face hub at a pinned commit, in the hub's own cache."""

from __future__ import annotations

import functools
import re
from contextlib import AbstractContextManager
from pathlib import Path

from tasks.core.errors import ConfigError, NetworkError
from tasks.hub.hub_errors import asking_hub
from tasks.pinning.model_folder import PATTERNS
from tasks.telemetry import log

_SUBFOLDERS = "*/*"  # other formats of the same model lie there, as large as the model
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20.0
_log = log.get_logger(__name__)


def download(source: str, revision: str | None) -> Path:
    """Bring a hub model at a pinned commit into the hub's cache; return its folder there.

    Raises:
        ConfigError: The revision is missing or can move; or the hub does not show the model, and its cache lacks it.
        NetworkError: The hub does not answer, and its cache lacks the model.
    """
    from huggingface_hub import errors, snapshot_download

    if revision is None:
        raise ConfigError(f"`base.revision` is missing: {source} moves", _pin(source, "main"))
    if not _COMMIT.fullmatch(revision):
        what = f"`base.revision` is {revision!r}, a name that can move, not a commit of {source}"
        raise ConfigError(what, _pin(source, revision))

    snapshot = functools.partial(
        snapshot_download, source, revision=revision, allow_patterns=list(PATTERNS), ignore_patterns=[_SUBFOLDERS]
    )
    try:
        _commit_of(source, revision)  # the download itself would retry for half a minute before it raises
    except (ConfigError, NetworkError) as fault:  # also an old token, or a proxy that refuses
        try:  # a commit cannot have changed
            folder = snapshot(local_files_only=True)
        except errors.LocalEntryNotFoundError:
            raise fault from None
        _log.info("%s; using the copy in the hub's cache: %s", fault.what, folder)
        return Path(folder)
    with _asking(source, revision):
        return Path(snapshot())


def _commit_of(source: str, revision: str) -> str | None:
    from huggingface_hub import HfApi

    with _asking(source, revision):
        return HfApi().model_info(source, revision=revision, timeout=_TIMEOUT_S).sha


def _pin(source: str, name: str) -> str:
    """Say what to write instead: the commit that ``name`` stands at now."""
    try:
        commit = _commit_of(source, name)
    except NetworkError as error:
        return f"write its commit, 40 hex digits; the hub could not be asked for it: {error.what}"
    return f"pin the commit that `{name}` stands at now: revision: {commit}"


def _asking(source: str, revision: str) -> AbstractContextManager[None]:
    advice = "correct `base.source` (no folder here has that name either) or `base.revision`, or log in (HF_TOKEN)"
    return asking_hub(f"model {source} at {revision}", advice)
