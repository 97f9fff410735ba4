"""Preference data in S3, pinned to the version of an object.

A source reads `s3://BUCKET/KEY?versionId=ID`. An object without a version can be written over, and then
params would no longer say what was trained on.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from tasks.core.errors import ConfigError, DataError, NetworkError, StorageError
from tasks.object_store.bucket import ABSENT, Bucket, code_of
from tasks.pairs.ingestion.formats import has_known_form, read_blocks
from tasks.pairs.raw.raw_row import Block

_FORM = re.compile(r"(s3://[^/]+)/(.+?)(?:\?versionId=([^?&]*))?")
_GONE = ABSENT | {"NoSuchVersion", "InvalidArgument", "400"}


@dataclasses.dataclass(frozen=True)
class S3Object:
    """One version of an object: ``bucket`` is `s3://NAME`."""

    bucket: str
    key: str
    version: str


def parse_s3(text: str) -> S3Object:
    """Read an `s3://` source.

    Raises:
        ConfigError: It is a prefix or a glob, or names no version; the message gives the object's
            current version, when the bucket can be asked.
    """
    match = _FORM.fullmatch(text)
    if not match or not has_known_form(match[2]) or re.search(r"[*?\[]", match[2]):
        advice = f"import it once with `dvc import-url --version-aware {text} data/raw/` and name the files in data/raw"
        raise ConfigError(f"`ingest.sources`: {text!r} is no single file of a known form, and can move", advice)
    bucket, key, version = match.groups()
    if version in (None, "", "null"):  # S3 calls `null` what was written without versioning
        raise ConfigError(f"`ingest.sources`: {text!r} names no version, and can move", _pin_advice(bucket, key))
    return S3Object(bucket, key, version)


def _pin_advice(bucket: str, key: str) -> str:
    """Say what to write instead, with the version filled in if the bucket answers and keeps versions."""
    place = Bucket(bucket)
    try:
        with place.asking("reading"):
            version = place.client.head_object(Bucket=place.name, Key=key).get("VersionId")
    except (StorageError, NetworkError):
        return f"pin a version: {bucket}/{key}?versionId=ID; `aws s3api list-object-versions` lists them"
    if version in (None, "null"):
        command = f"dvc import-url {bucket}/{key} data/raw/"
        return f"the bucket keeps no versions: switch versioning on, or import the file once with `{command}`"
    return f"pin the version that it has now: {bucket}/{key}?versionId={version}"


def read_s3(item: S3Object) -> Iterator[Block]:
    """Yield the rows of an object, by way of a temporary file: Parquet is not read from its beginning.

    Raises:
        DataError: There is no such object or version, or it is not readable as its form.
        StorageError: The bucket is missing, or access is denied.
        NetworkError: The server does not answer.
    """
    from botocore.exceptions import ClientError

    place, name = Bucket(item.bucket), f"{item.bucket}/{item.key}"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / PurePosixPath(item.key).name
        with place.asking("reading"):
            try:
                version = {"VersionId": item.version}
                place.client.download_file(place.name, item.key, str(target), ExtraArgs=version)
            except ClientError as error:
                if code_of(error) not in _GONE:
                    raise
                what = f"{name} has no version {item.version}"
                raise DataError(what, "correct `ingest.sources`") from None
        yield from read_blocks(target, name)
