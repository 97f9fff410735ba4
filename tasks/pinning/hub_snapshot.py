"""A model of the Hugging Face hub at a pinned commit, in the hub's own cache."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tasks.core.errors import ConfigError, DataError, NetworkError
from tasks.hub.hub_errors import asking_hub
from tasks.pinning.model_folder import NO_SETTINGS, SETTINGS, index_in, settings_files, weight_files, weights_in
from tasks.pinning.model_settings import check_settings
from tasks.telemetry import log

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 20.0
_log = log.get_logger(__name__)


def download(
    source: str, revision: str | None, section: str = "base", check: Callable[[Path], None] = check_settings
) -> Path:
    """Bring a hub model at a pinned commit into the hub's cache; return its folder there.

    Args:
        source: The model.
        revision: The commit.
        section: The params section that names both, for messages.
        check: Checks the folder that has the model's settings, before its weights are fetched.

    Raises:
        ConfigError: The revision is missing or can move; or the hub does not show the model, and its cache lacks it.
        DataError: The repository is no base, or its config or tokenizer does not load.
        NetworkError: The hub does not answer, and its cache lacks the model.
    """
    from huggingface_hub import errors, snapshot_download

    if revision is None:
        raise ConfigError(f"`{section}.revision` is missing: {source} moves", _pin(source, "main", section))
    if not _COMMIT.fullmatch(revision):
        what = f"`{section}.revision` is {revision!r}, a name that can move, not a commit of {source}"
        raise ConfigError(what, _pin(source, revision, section))

    snapshot = functools.partial(snapshot_download, source, revision=revision)
    try:
        names = _files_of(
            source, revision, section
        )  # the download itself would retry for half a minute before it raises
    except (ConfigError, NetworkError) as fault:  # also an old token, or a proxy that refuses
        try:  # a commit cannot have changed
            folder = Path(
                snapshot(local_files_only=True, allow_patterns=[*SETTINGS], ignore_patterns=[*NO_SETTINGS, "*/*"])
            )
            weights_in(folder)  # no list says which weights the repository has
        except (errors.LocalEntryNotFoundError, DataError):
            raise fault from None
        _log.info("%s; using the copy in the hub's cache: %s", fault.what, folder)
        return folder

    # the settings first: a model that they do not suit is refused before its weights are fetched
    settings = settings_files(names, source)
    with _asking(source, revision, section):
        folder = Path(snapshot(allow_patterns=settings))
    check(folder)
    weights = weight_files(names, index_in(folder), source)
    with _asking(source, revision, section):
        return Path(snapshot(allow_patterns=[*settings, *weights]))


def _files_of(source: str, revision: str, section: str) -> list[str]:
    """Return the names of the files at the top of a repository; other formats of a model lie in its folders."""
    from huggingface_hub import HfApi

    with _asking(source, revision, section):
        siblings = HfApi().model_info(source, revision=revision, timeout=_TIMEOUT_S).siblings or []
    return [sibling.rfilename for sibling in siblings if "/" not in sibling.rfilename]


def _commit_of(source: str, revision: str, section: str) -> str | None:
    from huggingface_hub import HfApi

    with _asking(source, revision, section):
        return HfApi().model_info(source, revision=revision, timeout=_TIMEOUT_S).sha


def _pin(source: str, name: str, section: str) -> str:
    """Say what to write instead: the commit that ``name`` stands at now."""
    try:
        commit = _commit_of(source, name, section)
    except NetworkError as error:
        return f"write its commit, 40 hex digits; the hub could not be asked for it: {error.what}"
    return f"pin the commit that `{name}` stands at now: revision: {commit}"


def _asking(source: str, revision: str, section: str) -> AbstractContextManager[None]:
    names = f"`{section}.source` (no folder here has that name either) or `{section}.revision`"
    advice = f"correct {names}, or log in (HF_TOKEN)"
    return asking_hub(f"model {source} at {revision}", advice)
