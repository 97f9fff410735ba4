"""Preference data from the Hugging Face hub, pinned to a commit.

A source reads `hub:ORG/NAME@REVISION`, with `#SPLIT` (train unless said) or `#CONFIG/SPLIT` behind it.
The revision is the 40 hex digits of a commit: a branch moves, and then params would no longer say
what was trained on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from tasks.core.errors import ConfigError, DataError, NetworkError
from tasks.hub.hub_errors import asking_hub, dataset_commit
from tasks.pairs.raw.raw_row import Block, RawRow, in_blocks

PREFIX = "hub:"
_FORM = re.compile(
    r"hub:(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^#]*))?(?:#(?:(?P<config>[^/]+)/)?(?P<split>.+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True)
class HubDataset:
    """A data set of the hub at one commit."""

    name: str
    revision: str
    config: str | None
    split: str


def parse_hub(text: str) -> HubDataset:
    """Read a `hub:` source.

    Raises:
        ConfigError: It is malformed, or its revision is not a commit; the message gives the commit
            that the branch stands at now, when the hub can be asked.
    """
    match = _FORM.fullmatch(text)
    if not match:
        raise ConfigError(
            f"`ingest.sources` has {text!r}", "write hub:ORG/NAME@REVISION or hub:ORG/NAME@REVISION#SPLIT"
        )
    name, revision = match["name"], match["revision"] or ""
    if not _COMMIT.fullmatch(revision):
        fault = f"moves with `{revision}`" if revision else "names no revision"
        raise ConfigError(f"`ingest.sources`: {text!r} {fault}", _pin_advice(name, revision, text))
    return HubDataset(name, revision, match["config"], match["split"] or "train")


def _pin_advice(name: str, revision: str, text: str) -> str:
    """Say what to write instead, with the commit filled in if the hub answers."""
    tail = "#" + text.split("#", 1)[1] if "#" in text else ""
    try:
        commit = dataset_commit(name, revision or "main")
    except (ConfigError, NetworkError):
        page = f"https://huggingface.co/datasets/{name}/commits/main"
        return f"pin a commit of 40 hex digits, {PREFIX}{name}@COMMIT{tail}; {page} lists them"
    return f"pin the commit that it stands at now: {PREFIX}{name}@{commit}{tail}"


def read_hub(dataset: HubDataset) -> Iterator[Block]:
    """Yield the rows of a data set, downloading it into the hub's cache where it is not there yet.

    Raises:
        DataError: There is no such data set, commit, configuration or split.
        NetworkError: The hub does not answer.
    """
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    label = f"{PREFIX}{dataset.name}@{dataset.revision[:12]}#{dataset.split}"
    advice = "correct `ingest.sources`"
    try:
        with asking_hub(label, advice):
            rows = datasets.load_dataset(dataset.name, dataset.config, split=dataset.split, revision=dataset.revision)
    except (DatasetNotFoundError, ValueError, FileNotFoundError) as error:
        raise DataError(f"{label} cannot be read: {error}", advice) from None

    name = f"{PREFIX}{dataset.name}#{dataset.split}"
    yield from in_blocks(RawRow(f"{name}:{number}", row) for number, row in enumerate(rows, start=1))
