"""A real S3 server on loopback (moto), for whatever keeps its objects in a bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Server:
    """A running server: ``url`` is what AWS_ENDPOINT_URL is set to, ``client`` talks to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client: Any = boto3.client("s3", endpoint_url=url)

    def names(self, bucket: str) -> list[str]:
        """Return the keys of all objects of a bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, *buckets: str) -> Iterator[Server]:
    """Serve empty buckets; the environment of this process and its children leads there, with made-up keys."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        found = Server(f"http://{host}:{port}")
        urlopen(Request(f"{found.url}/moto-api/reset", method="POST")).close()  # its memory is the process's
        for bucket in buckets:
            found.client.create_bucket(Bucket=bucket)
        yield found
    finally:
        server.stop()
