"""A bucket as the registry's store: S3, or any server that speaks its protocol and honours ``If-None-Match: *``.

That the server does is tried before anything is written, once for a bucket: one that ignores the condition would let
two writers overwrite each other, and is refused. One that honours it, but looks and writes in two steps (OpenStack
Swift), tells writers that meet all the same that they were first; there each waits until what was under way has
settled, and then looks whose object stands. What that lets pass, for an object that took longer to arrive, breaks the
chain of the log and is seen. Every upload carries its SHA-256 for the server to check; what was stored is read back
and compared before a version exists, whatever the server checks.

Requests that fail in passing are repeated a bounded number of times. An answer can be lost on its way, so a writer
that is told "there is something already" looks whether it is what it wrote itself.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.core.errors import NetworkError, StorageError
from tasks.object_store.bucket import Bucket, code_of, safe_words
from tasks.registry.stores.store import BLOCK, A, MissingKey, Moved, key_parts, refuse_stranger
from tasks.telemetry import log

PART_BYTES = 16 << 20  # files above it go over in parts, several at once
_MOST_PARTS = 10_000
_LANES = 8
_TRIES = 5
_PROBE, _TRIALS = ".probe", ".trials"  # no key can begin with a dot
_ROUNDS, _RIVALS = 4, 8  # of the trial whether one of many writers at once wins
_SETTLE_S = 5.0
_ABSENT = {"404", "NoSuchKey", "NotFound"}
_TAKEN = {"412", "PreconditionFailed"}
_CONFLICT = {"409", "ConditionalRequestConflict", "OperationAborted"}  # another writer is at it this moment
_UNKNOWN = {"501", "NotImplemented", "InvalidArgument", "400"}


_log = log.get_logger(__name__)


class S3Store:
    """A bucket, or what is below a prefix of it, as a store."""

    def __init__(self, address: str, encryption: str = "", kms_key: str = "") -> None:
        """Take ``s3://bucket/prefix``; nothing is asked of the server yet.

        Raises:
            ConfigError: It is no such address.
        """
        self._bucket = Bucket(address)
        self.label = self._bucket.label
        self.lanes = _LANES
        told = {"ServerSideEncryption": encryption, "SSEKMSKeyId": kms_key}
        self._encryption = {name: value for name, value in told.items() if value}
        self._lock = threading.Lock()
        self._settle_s: float | None = None  # how long to wait after a creation; None until the server was tried

    def put(self, key: str, content: bytes | Path, moved: Moved | None = None) -> bool:
        """Create ``key`` if it is absent; equal bytes that stand there count as created. See :class:`Store`."""
        name = self._name(key)
        self._probe()
        if isinstance(content, Path) and content.stat().st_size > PART_BYTES:
            return not self.exists(key) and self._create(key, lambda: self._send_parts(name, content, moved), None)
        data = content if isinstance(content, bytes) else content.read_bytes()
        is_created = self._create(key, lambda: self._send(name, data), data)
        if moved:
            moved(len(data))
        return is_created

    def get(self, key: str) -> bytes:
        """Return the bytes of ``key``; see :class:`Store`."""
        return b"".join(self.stream(key))

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of ``key`` in blocks, going on where a connection broke; see :class:`Store`."""
        from botocore import exceptions as theirs

        done, condition = 0, dict[str, str]()
        for left in reversed(range(_TRIES)):
            try:
                found = self._ask("reading", "get_object", key, **condition)
                for block in found["Body"].iter_chunks(BLOCK):
                    done += len(block)
                    yield block
                return
            except (theirs.HTTPClientError, theirs.IncompleteReadError) as error:
                if not left:
                    raise NetworkError(f"reading {self.label}/{key}: {safe_words(error)}", "run again") from None
                condition = {"Range": f"bytes={done}-", "IfMatch": found["ETag"]} if done else {}

    def fetch(self, key: str, target: Path, moved: Moved | None = None) -> None:
        """Write ``key`` to a new file, large ones in parts at once; see :class:`Store`."""
        from boto3.s3.transfer import TransferConfig
        from botocore.exceptions import ClientError

        config = TransferConfig(PART_BYTES, _LANES, PART_BYTES)
        with self._bucket.asking("reading"):
            try:
                place = (self._bucket.name, self._name(key), str(target))
                self._bucket.client.download_file(*place, Callback=moved, Config=config)
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    raise self._missing(key) from None
                raise

    def exists(self, key: str) -> bool:
        """Tell whether ``key`` is there; see :class:`Store`."""
        try:
            self._ask("reading", "head_object", key)
        except MissingKey:
            return False
        return True

    def children(self, prefix: str, after: str = "") -> list[str]:
        """Return the names below ``prefix``; see :class:`Store`."""
        start = self._name(prefix) + "/" if prefix else self._bucket.prefix
        found: set[str] = set()
        for page in self._pages(start, Delimiter="/", **({"StartAfter": start + after} if after else {})):
            found |= {entry["Key"].removeprefix(start) for entry in page.get("Contents", [])}
            found |= {entry["Prefix"].removeprefix(start)[:-1] for entry in page.get("CommonPrefixes", [])}
        shown = sorted(name for name in found if name > after and not name.startswith("."))
        return [refuse_stranger(name, f"s3://{self._bucket.name}/{start}{name}") for name in shown]

    def ages(self, prefix: str) -> dict[str, float]:
        """Return all keys below ``prefix`` with their ages; see :class:`Store`."""
        start, now = self._name(prefix) + "/", datetime.datetime.now(datetime.UTC)
        entries = [entry for page in self._pages(start) for entry in page.get("Contents", []) if entry["Key"] != start]
        for entry in entries:
            for part in entry["Key"].removeprefix(start).split("/"):
                refuse_stranger(part, f"s3://{self._bucket.name}/{entry['Key']}")
        cut = len(self._bucket.prefix)
        return {entry["Key"][cut:]: (now - entry["LastModified"]).total_seconds() for entry in entries}

    def remove(self, key: str) -> None:
        """Remove ``key``; see :class:`Store`."""
        self._ask("removing from", "delete_object", key)

    def sweep(self, older_than: float) -> int:
        """Abort stale uploads in parts; see :class:`Store`."""
        horizon = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=older_than)
        client, place = self._bucket.client, {"Bucket": self._bucket.name}
        with self._bucket.asking("listing the uploads of"):
            pages = client.get_paginator("list_multipart_uploads").paginate(**place, Prefix=self._bucket.prefix)
            uploads = [upload for page in pages for upload in page.get("Uploads", [])]
            stale = [upload for upload in uploads if upload["Initiated"] < horizon]
            for upload in stale:
                client.abort_multipart_upload(**place, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(stale)

    def _name(self, key: str) -> str:
        return self._bucket.prefix + "/".join(key_parts(key))

    def _missing(self, key: str) -> MissingKey:
        return MissingKey(f"{self.label}/{key} is missing", "see what is there with `python -m tasks.registry verify`")

    def _ask(self, what: str, operation: str, key: str, **words: str) -> Any:
        """Ask the server one thing about ``key``."""
        from botocore.exceptions import ClientError

        place = {"Bucket": self._bucket.name, "Key": self._name(key)}
        with self._bucket.asking(what):
            try:
                return _settled(lambda: getattr(self._bucket.client, operation)(**place, **words))
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    raise self._missing(key) from None
                raise

    def _pages(self, start: str, **words: str) -> list[Any]:
        place = {"Bucket": self._bucket.name, "Prefix": start}
        with self._bucket.asking("listing"):
            lister = self._bucket.client.get_paginator("list_objects_v2")
            return _settled(lambda: list(lister.paginate(**place, **words)))

    def _create(self, key: str, send: Callable[[], None], data: bytes | None) -> bool:
        """Send an object until the server has said whether it was absent; ``data`` it is, where that is small."""
        from botocore.exceptions import ClientError

        for _ in range(_TRIES):
            with self._bucket.asking("writing"):
                try:
                    send()
                    return data is None or self._stands(key, data)
                except ClientError as error:
                    if code_of(error) not in _TAKEN | _CONFLICT | {"NoSuchUpload"}:
                        raise
            with contextlib.suppress(MissingKey):  # nothing there after all: it was another's attempt that failed
                if data is not None:
                    return self.get(key) == data
                if self.exists(key):
                    return False
        raise NetworkError(f"writing {self.label}/{key}: the server says now yes, now no", "run again later")

    def _send(self, name: str, data: bytes) -> None:
        self._bucket.client.put_object(
            Bucket=self._bucket.name,
            Key=name,
            Body=data,
            IfNoneMatch="*",
            ChecksumSHA256=_checksum(data),
            **self._encryption,
        )

    def _send_parts(self, name: str, source: Path, moved: Moved | None) -> None:
        """Upload a large file in parts, several at once; an upload that fails is aborted."""
        client, place = self._bucket.client, {"Bucket": self._bucket.name, "Key": name}
        begun = client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256", **self._encryption)
        place["UploadId"] = begun["UploadId"]
        size = source.stat().st_size
        part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))

        def send(number: int) -> dict[str, Any]:
            with source.open("rb") as file:
                file.seek((number - 1) * part_bytes)
                data = file.read(part_bytes)
            part = {"PartNumber": number, "ChecksumSHA256": _checksum(data)}
            answer = client.upload_part(**place, **part, Body=data)
            if moved:
                moved(len(data))
            return {**part, "ETag": answer["ETag"]}

        try:
            with ThreadPoolExecutor(_LANES) as pool:
                parts = list(pool.map(send, range(1, -(-size // part_bytes) + 1)))
            client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            with contextlib.suppress(Exception):
                client.abort_multipart_upload(**place)
            raise

    def _stands(self, key: str, data: bytes) -> bool:
        """Tell whether what was just created is there to stay."""
        if not self._settle_s:
            return True
        time.sleep(self._settle_s)
        return self.get(key) == data

    def _probe(self) -> None:
        """Find out once how the server creates; the finding is kept in the bucket.

        Raises:
            StorageError: It overwrites what it was told not to, or does not know the condition.
        """
        with self._lock:
            if self._settle_s is not None:
                return
            found = self._finding() or self._tried()
            if self._is_created(_PROBE, found):  # a server that has one already must say so
                found = self._finding() or found
                if self._is_created(_PROBE, found):
                    raise self._unfit("overwrites what `If-None-Match: *` tells it to leave")
            self._settle_s = float(json.loads(found)["settle_s"])
            if self._settle_s:
                told = (
                    "%s: writers that meet may overwrite each other there, so every deed waits %g s to see who stands"
                )
                _log.warning(told, self.label, self._settle_s)

    def _finding(self) -> bytes | None:
        """Return what an earlier trial found, if there was one."""
        from botocore.exceptions import ClientError

        place = {"Bucket": self._bucket.name, "Key": self._bucket.prefix + _PROBE}
        with self._bucket.asking("reading"):
            try:
                return _settled(lambda: bytes(self._bucket.client.get_object(**place)["Body"].read()))
            except ClientError as error:
                if code_of(error) in _ABSENT:
                    return None
                raise

    def _tried(self) -> bytes:
        """Let several writers create one object at once, a few times; return the finding."""
        is_atomic = True
        for _ in range(_ROUNDS):
            name = f"{_TRIALS}/{secrets.token_hex(8)}"
            rivals = [f"rival {number}".encode() for number in range(_RIVALS)]
            with ThreadPoolExecutor(_RIVALS) as pool:
                won = sum(pool.map(lambda data, name=name: self._is_created(name, data), rivals))
            is_atomic &= won <= 1  # none, where an answer was lost and the request repeated
            with contextlib.suppress(StorageError, NetworkError), self._bucket.asking("removing from"):
                self._bucket.client.delete_object(Bucket=self._bucket.name, Key=self._bucket.prefix + name)
        return json.dumps({"settle_s": 0.0 if is_atomic else _SETTLE_S}).encode()

    def _is_created(self, name: str, data: bytes) -> bool:
        """Create an object of the trial; False when the server says that there is one."""
        from botocore.exceptions import ClientError

        with self._bucket.asking("writing"):
            try:
                self._send(self._bucket.prefix + name, data)
            except ClientError as error:
                if code_of(error) in _UNKNOWN:
                    raise self._unfit(f"does not know `If-None-Match: *` ({code_of(error)})") from None
                if code_of(error) not in _TAKEN | _CONFLICT:
                    raise
                return False
        return True

    def _unfit(self, why: str) -> StorageError:
        advice = "keep the registry in a folder, or on a server that does: S3, MinIO, Ceph, R2, Swift"
        return StorageError(f"the server of {self.label} {why}, so two writers could undo each other", advice)


def _settled(ask: Callable[[], A]) -> A:
    """Ask again while the server says that another is at it this moment: reading knows no such condition."""
    from botocore.exceptions import ClientError

    for _ in range(_TRIES - 1):
        try:
            return ask()
        except ClientError as error:
            if code_of(error) not in _TAKEN | _CONFLICT:
                raise
    return ask()


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
