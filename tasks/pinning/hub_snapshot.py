"""A model of the Hugging Face hub at a pinned commit, in the hub's own cache."""

from __future__ import annotations

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
        ConfigError: The revision is missing or can move, or the hub has no such model.
        NetworkError: The hub does not answer, and its cache does not hold the model.
    """
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ConfigError(_moving(source, revision), _pin(source, revision or "main"))
    from huggingface_hub import HfApi

    try:
        with _asking(source, revision):  # the download itself would retry for half a minute before it raises
            HfApi().model_info(source, revision=revision, timeout=_TIMEOUT_S)
    except NetworkError as unreachable:
        return _cached(source, revision, unreachable)
    with _asking(source, revision):
        return _snapshot(source, revision)


def _cached(source: str, revision: str, unreachable: NetworkError) -> Path:
    """Return the copy in the hub's cache, for the commit cannot have changed; without one, raise ``unreachable``."""
    from huggingface_hub import errors

    try:
        folder = _snapshot(source, revision, is_local=True)
    except errors.LocalEntryNotFoundError:
        raise unreachable from None
    _log.info("the hub does not answer; using the copy in its cache: %s", folder)
    return folder


def _snapshot(source: str, revision: str, is_local: bool = False) -> Path:
    """Return the folder of the hub's cache that holds the model's files, downloaded unless ``is_local``."""
    from huggingface_hub import snapshot_download

    wanted, others = list(PATTERNS), [_SUBFOLDERS]
    return Path(
        snapshot_download(
            source, revision=revision, allow_patterns=wanted, ignore_patterns=others, local_files_only=is_local
        )
    )


def _moving(source: str, revision: str | None) -> str:
    """Say what is wrong with a revision that is no commit."""
    if revision is None:
        return f"`base.revision` is missing: {source} moves"
    return f"`base.revision` is {revision!r}, a name that can move, not a commit of {source}"


def _pin(source: str, name: str) -> str:
    """Say what to write instead: the commit that ``name`` stands at now."""
    from huggingface_hub import HfApi

    try:
        with _asking(source, name):
            commit = HfApi().model_info(source, revision=name, timeout=_TIMEOUT_S).sha
    except NetworkError as error:
        return f"write its commit, 40 hex digits; the hub could not be asked for it: {error.what}"
    return f"pin the commit that `{name}` stands at now: revision: {commit}"


def _asking(source: str, revision: str) -> AbstractContextManager[None]:
    advice = "correct `base.source` (no folder here has that name either) or `base.revision`, or set HF_TOKEN to see it"
    return asking_hub(f"model {source} at {revision}", advice)
