"""A bucket as the registry's store: S3, or any server that speaks its protocol and honours ``If-None-Match: *``.

Whether the server honours the condition is tested before anything is written. A server that ignores it, or that
checks and writes in two steps so that concurrent writers all succeed, is refused: two writers could overwrite each
other's log entries there. Each upload carries its SHA-256 for the server to check, and what was stored is read back
and compared before a version exists, whatever the server checks.

Requests that fail temporarily are repeated a few times. A response can be lost on its way, so a writer
that is told "this key exists" checks whether the object is its own.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tasks.core.errors import NetworkError, StorageError
from tasks.object_store.bucket import ABSENT, Bucket, code_of, safe_words
from tasks.registry.stores.store import BLOCK, PARALLEL, A, MissingKey, OnBytes, Store, check_stored_name, key_parts

PART_BYTES = 16 << 20  # larger files are uploaded in parts, several at once
_MOST_PARTS = 10_000
_TRIES = 5
_TAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict", "OperationAborted"}  # by another writer
_UNKNOWN = {"501", "NotImplemented", "InvalidArgument", "400"}

_PROBE, _TRIALS = ".probe", ".trials"  # no key can begin with a dot
_PASSED = b'{"settle_s": 0.0}'  # what `.probe` holds where the test was passed; earlier versions read this key
_ROUNDS, _WRITERS = 4, 8


class S3Store(Store):
    """A bucket, or a prefix of it, as a store."""

    def __init__(self, address: str, encryption: str = "", kms_key: str = "") -> None:
        """Take ``s3://bucket/prefix``; no request is made yet.

        Raises:
            ConfigError: The address does not have that form.
        """
        self._bucket = Bucket(address)
        self.label = self._bucket.label
        self.is_remote = True
        options = {"ServerSideEncryption": encryption, "SSEKMSKeyId": kms_key}
        self._encryption = {name: value for name, value in options.items() if value}
        self._lock = threading.Lock()
        self._is_tested = False

    def put(self, key: str, content: bytes | Path, on_bytes: OnBytes | None = None) -> bool:
        """Create ``key`` if it is absent; an object of equal bytes counts as created. See :class:`Store`."""
        name = self._name(key)
        self._test_server()
        if isinstance(content, Path) and content.stat().st_size > PART_BYTES:
            return not self.exists(key) and self._create(key, lambda: self._send_parts(name, content, on_bytes), None)

        data = content if isinstance(content, bytes) else content.read_bytes()
        is_created = self._create(key, lambda: self._send(name, data), data)
        if on_bytes:
            on_bytes(len(data))
        return is_created

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the bytes of ``key`` in blocks, continuing where a connection broke; see :class:`Store`."""
        from botocore import exceptions as aws

        done, condition = 0, dict[str, str]()
        for tries_left in reversed(range(_TRIES)):
            try:
                response = self._ask("reading", "get_object", self._name(key), **condition)
                for block in response["Body"].iter_chunks(BLOCK):
                    done += len(block)
                    yield block
                return
            except (aws.HTTPClientError, aws.IncompleteReadError) as error:
                if not tries_left:
                    raise NetworkError(f"reading {self.label}/{key}: {safe_words(error)}", "run again") from None
                condition = {"Range": f"bytes={done}-", "IfMatch": response["ETag"]} if done else {}

    def fetch(self, key: str, target: Path, on_bytes: OnBytes | None = None) -> None:
        """Write ``key`` to a new file, a large one in parts at once; see :class:`Store`."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(PART_BYTES, PARALLEL, PART_BYTES)
        if not self._bucket.fetch("/".join(key_parts(key)), target, on_bytes, config):
            raise self._missing(self._name(key))

    def exists(self, key: str) -> bool:
        """Tell whether ``key`` exists; see :class:`Store`."""
        try:
            self._ask("reading", "head_object", self._name(key))
        except MissingKey:
            return False
        return True

    def children(self, prefix: str, after: str = "") -> list[str]:
        """Return the names directly below ``prefix``; see :class:`Store`."""
        start = self._name(prefix) + "/" if prefix else self._bucket.prefix
        names: set[str] = set()
        for page in self._pages(start, Delimiter="/", **({"StartAfter": start + after} if after else {})):
            names |= {entry["Key"].removeprefix(start) for entry in page.get("Contents", [])}
            names |= {entry["Prefix"].removeprefix(start)[:-1] for entry in page.get("CommonPrefixes", [])}
        shown = sorted(name for name in names if name > after and not name.startswith("."))
        return [check_stored_name(name, f"s3://{self._bucket.name}/{start}{name}") for name in shown]

    def ages(self, prefix: str) -> dict[str, float]:
        """Return all keys below ``prefix`` with their ages; see :class:`Store`."""
        start, now = self._name(prefix) + "/", datetime.datetime.now(datetime.UTC)
        entries = [entry for page in self._pages(start) for entry in page.get("Contents", []) if entry["Key"] != start]
        for entry in entries:
            for part in entry["Key"].removeprefix(start).split("/"):
                check_stored_name(part, f"s3://{self._bucket.name}/{entry['Key']}")
        cut = len(self._bucket.prefix)
        return {entry["Key"][cut:]: (now - entry["LastModified"]).total_seconds() for entry in entries}

    def remove(self, key: str) -> None:
        """Remove ``key``; see :class:`Store`."""
        self._ask("removing from", "delete_object", self._name(key))

    def sweep(self, older_than: float) -> int:
        """Abort old multipart uploads; see :class:`Store`."""
        horizon = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=older_than)
        client, place = self._bucket.client, {"Bucket": self._bucket.name}
        with self._bucket.asking("listing the uploads of"):
            pages = client.get_paginator("list_multipart_uploads").paginate(**place, Prefix=self._bucket.prefix)
            uploads = [upload for page in pages for upload in page.get("Uploads", [])]
            old = [upload for upload in uploads if upload["Initiated"] < horizon]
            for upload in old:
                client.abort_multipart_upload(**place, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(old)

    def _name(self, key: str) -> str:
        """Return the object's name in the bucket, which is the key behind the prefix."""
        return self._bucket.prefix + "/".join(key_parts(key))

    def _place(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket.name, "Key": name}

    def _missing(self, name: str) -> MissingKey:
        advice = "see what is there with `python -m tasks.registry verify`"
        return MissingKey(f"s3://{self._bucket.name}/{name} is missing", advice)

    def _ask(self, what: str, operation: str, name: str, **arguments: str) -> Any:
        """Make one request about the object ``name``."""
        from botocore.exceptions import ClientError

        request = {**self._place(name), **arguments}
        with self._bucket.asking(what):
            try:
                return _without_conflict(lambda: getattr(self._bucket.client, operation)(**request))
            except ClientError as error:
                if code_of(error) in ABSENT:
                    raise self._missing(name) from None
                raise

    def _pages(self, start: str, **arguments: str) -> list[Any]:
        place = {"Bucket": self._bucket.name, "Prefix": start}
        with self._bucket.asking("listing"):
            lister = self._bucket.client.get_paginator("list_objects_v2")
            return _without_conflict(lambda: list(lister.paginate(**place, **arguments)))

    def _create(self, key: str, send: Callable[[], None], data: bytes | None) -> bool:
        """Send an object until the server says whether it was absent; ``data`` are its bytes, if few."""
        from botocore.exceptions import ClientError

        for _ in range(_TRIES):
            with self._bucket.asking("writing"):
                try:
                    send()
                    return True
                except ClientError as error:
                    if code_of(error) not in _TAKEN | {"NoSuchUpload"}:
                        raise

            with contextlib.suppress(MissingKey):  # absent after all: the other writer failed, so send again
                if data is not None:
                    return self.get(key) == data
                if self.exists(key):
                    return False
        what = f"writing {self.label}/{key}: the server says alternately that it exists and that it does not"
        raise NetworkError(what, "run again later")

    def _send(self, name: str, data: bytes) -> None:
        """Upload a small object in one request."""
        body = {"Body": data, "ChecksumSHA256": _checksum(data), **self._encryption}
        self._bucket.client.put_object(**self._place(name), **body, IfNoneMatch="*")

    def _send_parts(self, name: str, source: Path, on_bytes: OnBytes | None) -> None:
        """Upload a large file in parts, several at once; an upload that fails is aborted."""
        client, place = self._bucket.client, self._place(name)
        upload = client.create_multipart_upload(**place, ChecksumAlgorithm="SHA256", **self._encryption)
        place["UploadId"] = upload["UploadId"]
        size = source.stat().st_size
        part_bytes = max(PART_BYTES, -(-size // _MOST_PARTS))

        def send(number: int) -> dict[str, Any]:
            with source.open("rb") as file:
                file.seek((number - 1) * part_bytes)
                data = file.read(part_bytes)
            part = {"PartNumber": number, "ChecksumSHA256": _checksum(data)}
            response = client.upload_part(**place, **part, Body=data)
            if on_bytes:
                on_bytes(len(data))
            return {**part, "ETag": response["ETag"]}

        try:
            with ThreadPoolExecutor(PARALLEL) as pool:
                parts = list(pool.map(send, range(1, -(-size // part_bytes) + 1)))
            client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            with contextlib.suppress(Exception):
                client.abort_multipart_upload(**place)
            raise

    def _test_server(self) -> None:
        """Test once whether the server creates objects only if they are absent.

        The first writer of a bucket lets several writers race; `.probe` then records that the server passed.

        Raises:
            StorageError: The server does not honour, or does not know, `If-None-Match: *`.
        """
        with self._lock:
            if self._is_tested:
                return
            try:
                with self._bucket.asking("reading"):
                    record = self._ask("reading", "get_object", self._bucket.prefix + _PROBE)["Body"].read()
            except MissingKey:
                self._race()
                record = _PASSED
            if record != _PASSED:  # an earlier version of this code recorded that writers overwrite each other
                raise self._unfit("lets concurrent writers of one key all succeed")

            if self._is_created(_PROBE, _PASSED) and self._is_created(_PROBE, _PASSED):
                raise self._unfit("ignores `If-None-Match: *`")
            self._is_tested = True

    def _race(self) -> None:
        """Let several writers create the same object at once, a few times; refuse a server where two succeed."""
        for _ in range(_ROUNDS):
            name = f"{_TRIALS}/{secrets.token_hex(8)}"
            contents = [f"writer {number}".encode() for number in range(_WRITERS)]
            with ThreadPoolExecutor(_WRITERS) as pool:
                winners = sum(pool.map(lambda data, name=name: self._is_created(name, data), contents))
            with contextlib.suppress(StorageError, NetworkError):
                self._bucket.remove(name)
            if winners > 1:  # none at all is possible: a response was lost, and the repeated request was refused
                raise self._unfit(f"let {winners} of {_WRITERS} concurrent writers of one key succeed")

    def _is_created(self, name: str, data: bytes) -> bool:
        """Create an object of the test; return False if the server says that it exists."""
        from botocore.exceptions import ClientError

        with self._bucket.asking("writing"):
            try:
                self._send(self._bucket.prefix + name, data)
            except ClientError as error:
                if code_of(error) in _UNKNOWN:
                    raise self._unfit(f"does not know `If-None-Match: *` ({code_of(error)})") from None
                if code_of(error) not in _TAKEN:
                    raise
                return False
        return True

    def _unfit(self, why: str) -> StorageError:
        advice = "keep the registry in a folder, or on a server that honours the condition: S3, MinIO, Ceph, R2"
        return StorageError(f"the server of {self.label} {why}, so two writers could overwrite each other", advice)


def _without_conflict(ask: Callable[[], A]) -> A:
    """Repeat a read that the server refuses because of a concurrent writer, which is no condition of reading."""
    from botocore.exceptions import ClientError

    for _ in range(_TRIES - 1):
        try:
            return ask()
        except ClientError as error:
            if code_of(error) not in _TAKEN:
                raise
    return ask()


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
