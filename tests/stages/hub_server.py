"""A small hub on loopback: as much of the Hugging Face hub's HTTP interface as its client needs for a download."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Serves one model at one commit, under the branch `main` as well.

    Attributes:
        requests: Method and path of every request, in order.
        status: When set, every request is answered with it.
    """

    daemon_threads = True

    def __init__(self, name: str, commit: str, files: Mapping[str, bytes]) -> None:
        self.name, self.commit, self.files = name, commit, dict(files)
        self.requests: list[str] = []
        self.status: int | None = None
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self) -> set[str]:
        """Return the files whose bytes were asked for."""
        marker = f"GET /{self.name}/resolve/"
        return {line.removeprefix(marker).split("/", 1)[1] for line in self.requests if line.startswith(marker)}


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    _ERRORS: ClassVar = {"RepoNotFound": "Repository not found", "RevisionNotFound": "Revision not found"}

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""

    def _answer(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.status is not None:
            return self._send(hub.status, b"")
        if path.startswith("/api/models/"):
            return self._answer_api(path.removeprefix("/api/models/"))
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        commit, _, file = rest.partition("/")
        if (name, commit) != (hub.name, hub.commit) or file not in hub.files:
            return self._refuse("EntryNotFound")
        data = hub.files[file]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self._send(200, data, {"ETag": etag, "X-Repo-Commit": hub.commit})

    def _answer_api(self, rest: str) -> None:
        """`NAME/revision/REVISION` tells the commit and its files, `NAME/tree/REVISION` the files' sizes."""
        hub = self.server
        name, kind, revision = rest, "revision", "main"
        for word in ("revision", "tree"):
            if f"/{word}/" in rest:
                name, _, revision = rest.partition(f"/{word}/")
                kind = word
        if name != hub.name:
            return self._refuse("RepoNotFound")
        if revision not in ("main", hub.commit):
            return self._refuse("RevisionNotFound")
        if kind == "tree":
            return self._json([{"type": "file", "path": p, "size": len(d), "oid": "0"} for p, d in hub.files.items()])
        siblings = [{"rfilename": path} for path in hub.files]
        return self._json({"id": hub.name, "modelId": hub.name, "sha": hub.commit, "siblings": siblings})

    def _refuse(self, code: str) -> None:
        told = json.dumps({"error": self._ERRORS.get(code, code)}).encode()
        self._send(404, told, {"X-Error-Code": code, "X-Error-Message": self._ERRORS.get(code, code)})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextlib.contextmanager
def serving(name: str, commit: str, folder: Path) -> Iterator[Hub]:
    """Serve every file under ``folder`` as the model ``name`` at ``commit``."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub = Hub(name, commit, files)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
