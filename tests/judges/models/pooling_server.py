"""A server on loopback that speaks vLLM's pooling API, and misbehaves on command."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]  # status, body, headers


def score_of(body: dict[str, Any]) -> float:
    """What the server thinks of a conversation: the length of its last message."""
    return len(body["messages"][-1]["content"]) / 10


def pooled(body: dict[str, Any]) -> Answer:
    """The answer that vLLM gives for a reward model of one label."""
    data = [{"index": 0, "object": "pooling", "data": [score_of(body)]}]
    return 200, {"object": "list", "model": body["model"], "data": data}, {}


class PoolingServer(ThreadingHTTPServer):
    """Answers `POST /pooling`.

    Attributes:
        bodies: What every call asked, in order.
        keys: The header `Authorization` of every call.
        answer: Gives the answer to the n-th call (from 0) and its body.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Callable[[int, dict[str, Any]], Answer] = lambda _, body: pooled(body)
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """What `base_url` is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: PoolingServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["Authorization"])
        status, content, headers = self.server.answer(number, body) if self.path == "/pooling" else (404, {}, {})
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@contextlib.contextmanager
def pooling_server() -> Iterator[PoolingServer]:
    """Serve until the block ends."""
    server = PoolingServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
