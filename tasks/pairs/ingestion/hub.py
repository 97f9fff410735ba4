"""Preference data from the Hugging Face hub, pinned to a commit.

A source reads `hub:ORG/NAME@REVISION`, with `#SPLIT` (train unless said) or `#CONFIG/SPLIT` behind it.
The revision is the 40 hex digits of a commit: a branch moves, and then params would no longer say
what was trained on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from tasks.core.errors import ConfigError, DataError, NetworkError
from tasks.hub.hub_errors import asking_hub, dataset_commit
from tasks.pairs.ingestion.arrow_formats import arrow_blocks
from tasks.pairs.raw.raw_row import Block, FormatError, RawRow, in_blocks

PREFIX = "hub:"
_ADVICE = "correct `ingest.sources`"
_ROWS_AT_ONCE = 1024
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
    """Yield the rows of a data set, as they come from the hub; nothing of them is kept on the disk.

    A part of a split (`train[:10%]`, `train+test`) and the switch HF_HUB_OFFLINE go by way of the hub's cache instead.

    Raises:
        DataError: There is no such data set, commit, configuration or split, or it is not readable.
        NetworkError: The hub does not answer.
    """
    import datasets

    name = f"{PREFIX}{dataset.name}#{dataset.split}"
    is_part = bool(set("[+") & set(dataset.split)) or dataset.split == "all"
    is_streamed = not is_part and not datasets.config.HF_HUB_OFFLINE
    asked = {"split": dataset.split, "revision": dataset.revision, "streaming": is_streamed}
    with _asking(dataset):
        rows: Any = datasets.load_dataset(dataset.name, dataset.config, **asked)

    def batches() -> Iterator[Any]:
        with _asking(dataset):
            for table in rows.with_format("arrow").iter(batch_size=_ROWS_AT_ONCE):
                yield from table.to_batches()

    def plain_rows() -> Iterator[RawRow]:
        with _asking(dataset):
            yield from (RawRow(f"{name}:{number}", row) for number, row in enumerate(rows, start=1))

    # values of extension types, such as JSON of mixed types, are texts in Arrow's tables, and `datasets` opens them
    is_plain = rows.features is not None and "extension<" not in str(rows.features.arrow_schema)
    with _asking(dataset):
        yield from arrow_blocks(batches, name, "Arrow") if is_plain else in_blocks(plain_rows())


@contextlib.contextmanager
def _asking(dataset: HubDataset) -> Iterator[None]:
    """Turn what goes wrong while a data set is opened or read into our errors."""
    import pyarrow as pa
    from datasets.exceptions import DatasetsError

    label = f"{PREFIX}{dataset.name}@{dataset.revision[:12]}#{dataset.split}"
    try:
        with asking_hub(label, _ADVICE):
            yield
    except FormatError as error:
        raise DataError(f"{label} {error.what}", error.advice) from None
    except (DatasetsError, ValueError, FileNotFoundError, NotImplementedError, pa.ArrowException) as error:
        files = f"`hf download {dataset.name} --repo-type dataset --revision {dataset.revision} --local-dir data/raw`"
        what = f"{label} cannot be read: {error.__cause__ or error}"
        raise DataError(what, f"{_ADVICE}, or fetch its files and name them: {files}") from None
