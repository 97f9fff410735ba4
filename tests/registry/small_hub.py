"""A small hub on loopback: as much of the Hugging Face hub's HTTP interface as its client needs for an upload."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub(ThreadingHTTPServer):
    """Takes commits to one model repository.

    Attributes:
        created: What was asked for when the repository was made.
        files: What was committed, by path.
        summaries: The message of every commit.
        status: When set, every request is answered with it.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.summaries: list[str] = []
        self.status: int | None = None
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        hub = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if hub.status is not None:
            self._answer({"error": "refused"}, hub.status)
        elif self.path == "/api/repos/create":
            request = json.loads(body)
            is_private = request.get("private") or request.get("visibility") == "private"
            hub.created.append(
                {"name": request["name"], "organization": request["organization"], "private": is_private}
            )
            self._answer({"url": f"{hub.url}/team/demo-adapter", "id": "team/demo-adapter"})
        elif "/preupload/" in self.path:
            asked = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]
            self._answer({"files": modes})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({})

    def do_GET(self) -> None:
        self._answer({"error": "Repository not found"}, self.server.status or 404)

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if line["key"] == "header":
                self.server.summaries.append(line["value"]["summary"])
            else:
                self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = "c" * 40
        self._answer(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/team/demo-adapter/commit/{oid}"}
        )

    def _answer(self, answer: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serve an empty hub."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
