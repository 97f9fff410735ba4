"""Objects in an S3 bucket: listed, fetched, stored and removed, with errors that say what to do.

Credentials, region and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE,
AWS_ENDPOINT_URL and so on): boto3 finds them, this code holds none.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, NetworkError, StorageError

SCHEME = "s3://"
ABSENT = {"404", "NoSuchKey", "NotFound"}  # error codes of a read or a removal
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_ATTEMPTS = 5
_SECONDS_TO_CONNECT, _SECONDS_TO_READ = 10, 60
_CONNECTIONS = 32
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_TRANSIENT = {"SlowDown", "RequestTimeout", "Throttling", "InternalError", "ServiceUnavailable"} | {
    *("OperationAborted", "ConditionalRequestConflict", "409", "PreconditionFailed", "412")  # a concurrent writer
}


class Bucket:
    """The objects below one prefix of a bucket.

    Attributes:
        label: The address, for messages.
        name: The bucket.
        prefix: What every key begins with: empty, or ending in a slash.
    """

    def __init__(self, address: str) -> None:
        """Take `s3://bucket/prefix`; no request is made yet.

        Raises:
            ConfigError: The address does not have that form.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise ConfigError(f"{address!r} is no address in S3", "write s3://bucket/prefix")
        self.label = address.rstrip("/")
        self.name = match[1]
        self.prefix = f"{match[2].strip('/')}/" if (match[2] or "").strip("/") else ""

    def names(self, folder: str) -> dict[str, int]:
        """Return the objects directly below ``folder``: sizes in bytes by name.

        Raises:
            StorageError: The bucket is missing, or access is denied.
            NetworkError: The server does not answer.
        """
        prefix = f"{self.prefix}{folder}/"
        with self.asking("listing"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            entries = [entry for page in pages for entry in page.get("Contents", [])]
        sizes = {entry["Key"].removeprefix(prefix): entry["Size"] for entry in entries}
        return {name: size for name, size in sizes.items() if name and "/" not in name}

    def fetch(
        self, name: str, target: Path, on_bytes: Callable[[int], object] | None = None, config: Any = None
    ) -> bool:
        """Write an object's bytes to the file ``target``; return False if there is no such object.

        Args:
            name: The object, below the prefix.
            target: The file.
            on_bytes: Called with the number of further bytes received, from any thread.
            config: boto3's ``TransferConfig``; its default when None.

        Raises:
            StorageError: The bucket is missing, or access is denied.
            NetworkError: The server does not answer.
        """
        from botocore.exceptions import ClientError

        with self.asking("reading"):
            try:
                place = (self.name, self.prefix + name, str(target))
                self.client.download_file(*place, Callback=on_bytes, Config=config)
            except ClientError as error:
                if code_of(error) in ABSENT:
                    return False
                raise
        return True

    def store(self, name: str, source: Path) -> None:
        """Store a file's bytes under ``name``; readers see all of it or nothing.

        Raises:
            StorageError: The bucket is missing, or access is denied.
            NetworkError: The server does not answer.
        """
        with self.asking("writing"):
            self.client.upload_file(str(source), self.name, self.prefix + name)

    def remove(self, name: str) -> None:
        """Remove an object; removing one that is absent is no error.

        Raises:
            StorageError: The bucket is missing, or access is denied.
            NetworkError: The server does not answer.
        """
        with self.asking("removing from"):
            self.client.delete_object(Bucket=self.name, Key=self.prefix + name)

    @functools.cached_property
    def client(self) -> Any:
        """The boto3 client, made on first use because boto3 is slow to import."""
        import boto3
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=_SECONDS_TO_CONNECT,
            read_timeout=_SECONDS_TO_READ,
            max_pool_connections=_CONNECTIONS,
            request_checksum_calculation="when_required",  # many servers know only the checksums sent by name
            response_checksum_validation="when_required",
        )
        try:
            return boto3.session.Session().client("s3", config=config)
        except ValueError as error:
            raise StorageError(f"{self.label}: {safe_words(error)}", "correct AWS_ENDPOINT_URL") from None

    @contextlib.contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn boto3's errors into those of :mod:`tasks.core.errors`, without credentials in their messages."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as aws

        where = f"{what} {self.label}"
        try:
            yield
        except (aws.NoCredentialsError, aws.PartialCredentialsError, aws.ProfileNotFound) as error:
            raise StorageError(f"{where}: {safe_words(error)}", "set AWS_ACCESS_KEY_ID, or AWS_PROFILE") from None
        except (aws.NoRegionError, aws.ParamValidationError) as error:
            raise StorageError(f"{where}: {safe_words(error)}", "correct the address, or AWS's settings") from None
        except (aws.ClientError, Boto3Error) as error:
            raise _explained(where, error) from None
        except (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError) as error:
            advice = "check AWS_ENDPOINT_URL and the network, and run again"
            raise NetworkError(f"{where}: {safe_words(error)}", advice) from None


def _explained(where: str, error: Exception) -> StorageError | NetworkError:
    """Separate errors that a person must correct from those that may go away."""
    code = code_of(error)
    if code in _TRANSIENT or code.startswith("5"):
        return NetworkError(f"{where}: {safe_words(error)}", "run again later")
    advice = {
        "NoSuchBucket": "make the bucket, or correct the address",
        "AccessDenied": "allow these credentials to list, read, write and delete there",
    }
    return StorageError(f"{where}: {safe_words(error)}", advice.get(code, "check the address and the credentials"))


def safe_words(error: Exception) -> str:
    """Return an error's message without the user and password that an address may hold."""
    return _USERINFO.sub("", str(error))


def code_of(error: Exception) -> str:
    """Return S3's error code; an upload's error holds it in its text alone."""
    response = getattr(error, "response", None)
    if response is not None:
        return str(response.get("Error", {}).get("Code", ""))
    match = re.search(r"An error occurred \((\w+)\)", str(error))
    return match[1] if match else ""
