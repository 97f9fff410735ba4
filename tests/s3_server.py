"""A real S3 server on loopback (moto), for whatever keeps its objects in a bucket."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


class Server:
    """A running server: ``url`` is what AWS_ENDPOINT_URL is set to, ``client`` talks to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        # a session of its own: boto3's default one keeps the keys of whichever server this process met first
        self.client: Any = boto3.session.Session().client("s3", endpoint_url=url)

    def names(self, bucket: str) -> list[str]:
        """Return the keys of all objects of a bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))


class _Quiet(WSGIRequestHandler):
    disable_nagle_algorithm = True

    def log(self, *_: object) -> None:
        """Say nothing of single requests."""


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, *buckets: str) -> Iterator[Server]:
    """Serve empty buckets; the environment of this process and its children leads there, with made-up keys.

    The environment also has an empty cache folder, for what is copied from the buckets.
    """
    cache = tempfile.mkdtemp()
    app = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": url, "XDG_CACHE_HOME": cache}.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        found = Server(url)
        urlopen(Request(f"{found.url}/moto-api/reset", method="POST")).close()  # its memory is the process's
        for bucket in buckets:
            found.client.create_bucket(Bucket=bucket)
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        shutil.rmtree(cache)


def one_at_a_time(app: Callable[..., Any]) -> Callable[..., Any]:
    """Serve one request after the other: moto looks whether a key is there and then writes it, in two steps."""
    lock = threading.Lock()

    def serve(environ: Any, start: Any) -> list[bytes]:
        with lock:
            return list(app(environ, start))

    return serve
