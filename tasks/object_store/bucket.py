"""Objects in an S3 bucket: listed, fetched, stored and removed, with errors that a person can mend.

Credentials, region and endpoint are those of the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE,
AWS_ENDPOINT_URL and so on): boto3 finds them, nothing of ours holds them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError, NetworkError, StorageError

SCHEME = "s3://"
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_ATTEMPTS = 5
_SECONDS_TO_CONNECT, _SECONDS_TO_READ = 10, 60
_CONNECTIONS = 32
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_PASSING = {"SlowDown", "RequestTimeout", "Throttling", "InternalError", "ServiceUnavailable"} | {
    *("OperationAborted", "ConditionalRequestConflict", "409", "PreconditionFailed", "412")  # another was at it
}


class Bucket:
    """The objects below one prefix of a bucket.

    Attributes:
        label: The address, for messages.
        name: The bucket.
        prefix: What every key begins with; empty, or with a slash at its end.
    """

    def __init__(self, address: str) -> None:
        """Take `s3://bucket/prefix`; nothing is asked of the server yet.

        Raises:
            ConfigError: It is no such address.
        """
        match = _ADDRESS.fullmatch(address)
        if match is None:
            raise ConfigError(f"{address!r} is no address in S3", "write s3://bucket/prefix")
        self.label = address.rstrip("/")
        self.name = match[1]
        self.prefix = f"{match[2].strip('/')}/" if (match[2] or "").strip("/") else ""
        self._held: Any = None

    def names(self, folder: str) -> dict[str, int]:
        """Return the objects directly below ``folder``: sizes in bytes by name.

        Raises:
            StorageError: The bucket is missing, or refuses.
            NetworkError: The server does not answer.
        """
        prefix = f"{self.prefix}{folder}/"
        with self.asking("listing"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            entries = [entry for page in pages for entry in page.get("Contents", [])]
        found = {entry["Key"].removeprefix(prefix): entry["Size"] for entry in entries}
        return {name: size for name, size in found.items() if name and "/" not in name}

    def fetch(self, name: str, target: Path) -> bool:
        """Write an object's bytes to the file ``target``; False where there is no such object.

        Raises:
            StorageError: The bucket is missing, or refuses.
            NetworkError: The server does not answer.
        """
        from botocore.exceptions import ClientError

        with self.asking("reading"):
            try:
                self.client.download_file(self.name, self.prefix + name, str(target))
            except ClientError as error:
                if code_of(error) in ("404", "NoSuchKey"):
                    return False
                raise
        return True

    def store(self, name: str, source: Path) -> None:
        """Store a file's bytes under ``name``; readers see it whole or not at all.

        Raises:
            StorageError: The bucket is missing, or refuses.
            NetworkError: The server does not answer.
        """
        with self.asking("writing"):
            self.client.upload_file(str(source), self.name, self.prefix + name)

    def remove(self, name: str) -> None:
        """Remove an object; one that is gone already is no fault.

        Raises:
            StorageError: The bucket is missing, or refuses.
            NetworkError: The server does not answer.
        """
        with self.asking("removing from"):
            self.client.delete_object(Bucket=self.name, Key=self.prefix + name)

    @property
    def client(self) -> Any:
        """The client, made when it is first needed: boto3 is slow to import."""
        if self._held is None:
            import boto3
            from botocore.config import Config

            config = Config(
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
                connect_timeout=_SECONDS_TO_CONNECT,
                read_timeout=_SECONDS_TO_READ,
                max_pool_connections=_CONNECTIONS,
                request_checksum_calculation="when_required",  # many servers know no others than what is sent by name
                response_checksum_validation="when_required",
            )
            try:
                self._held = boto3.session.Session().client("s3", config=config)
            except ValueError as error:
                raise StorageError(f"{self.label}: {safe_words(error)}", "mend AWS_ENDPOINT_URL") from None
        return self._held

    @contextlib.contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Turn boto3's errors into those of :mod:`tasks.core.errors`; none of them tells a credential."""
        from boto3.exceptions import Boto3Error
        from botocore import exceptions as theirs

        where = f"{what} {self.label}"
        try:
            yield
        except (theirs.NoCredentialsError, theirs.PartialCredentialsError, theirs.ProfileNotFound) as error:
            raise StorageError(f"{where}: {safe_words(error)}", "set AWS_ACCESS_KEY_ID, or AWS_PROFILE") from None
        except (theirs.NoRegionError, theirs.ParamValidationError) as error:
            raise StorageError(f"{where}: {safe_words(error)}", "mend the address, or AWS's settings") from None
        except (theirs.ClientError, Boto3Error) as error:
            raise _explained(where, error) from None
        except (theirs.HTTPClientError, theirs.ConnectionError, theirs.IncompleteReadError) as error:
            raise NetworkError(
                f"{where}: {safe_words(error)}", "check AWS_ENDPOINT_URL and the network, and run again"
            ) from None


def _explained(where: str, error: Exception) -> StorageError | NetworkError:
    """Tell apart what a person must mend from what may pass."""
    code = code_of(error)
    if code in _PASSING or code.startswith("5"):
        return NetworkError(f"{where}: {safe_words(error)}", "run again later")
    advice = {
        "NoSuchBucket": "make the bucket, or mend the address",
        "AccessDenied": "give these credentials leave to list, read, write and delete there",
    }
    return StorageError(f"{where}: {safe_words(error)}", advice.get(code, "check the address and the credentials"))


def safe_words(error: Exception) -> str:
    """Return an error's words without the user and password that an address may hold."""
    return _USERINFO.sub("", str(error))


def code_of(error: Exception) -> str:
    """Return S3's word for what went wrong; an upload's error holds it in its text alone."""
    response = getattr(error, "response", None)
    if response is not None:
        return str(response.get("Error", {}).get("Code", ""))
    found = re.search(r"An error occurred \((\w+)\)", str(error))
    return found[1] if found else ""
