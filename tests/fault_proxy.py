"""A proxy on loopback that hands requests on to a real server, and spoils those that it is told to spoil."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

FAULTS = (
    "cut before",  # the connection ends before the server hears of it
    "cut after",  # the server did it, and nobody hears
    "delay",
    "500 before",
    "500 after",
    "503 after",
    "409 before",
    "412 before",
    "truncate",  # half of the answer's body
)


class Proxy:
    """Counts the requests that pass; ``plan`` says for each number, from 0, which fault it meets, if any."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.plan: Callable[[int], str | None] = lambda _: None
        self.count = 0
        self.lock = threading.Lock()

    def next_fault(self) -> str | None:
        """Count a request, and return its fault."""
        with self.lock:
            self.count += 1
            return self.plan(self.count - 1)


@contextlib.contextmanager
def between(upstream: str) -> Iterator[tuple[Proxy, str]]:
    """Serve a proxy in front of ``upstream``; give it and its address."""
    proxy = Proxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1  # an answer goes out in one piece

        def handle_expect_100(self) -> bool:
            is_good = super().handle_expect_100()
            self.wfile.flush()
            return is_good

        def handle_any(self) -> None:
            fault = proxy.next_fault()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if fault == "delay":
                time.sleep(0.05)
            if fault == "cut before":
                self.close_connection = True
                return
            if fault and fault.endswith("before"):
                self.answer(int(fault.split()[0]), [], b"")
                return
            status, headers, data = self.forwarded(body)
            if fault == "cut after":
                self.close_connection = True
            elif fault and fault.endswith("after"):
                self.answer(int(fault.split()[0]), [], b"")
            else:
                self.answer(status, headers, data, is_cut=fault == "truncate")

        def forwarded(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection(str(proxy.upstream.hostname), proxy.upstream.port, timeout=30)
            with contextlib.closing(connection):
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "expect")}
                connection.request(self.command, self.path, body, headers)
                found = connection.getresponse()
                return found.status, found.getheaders(), found.read()

        def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, is_cut: bool = False) -> None:
            self.send_response_only(status)
            told = {name.lower(): value for name, value in headers}
            for name, value in told.items():
                if name not in ("connection", "transfer-encoding", "content-length"):
                    self.send_header(name, value)
            length = told.get("content-length", "0") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data[: len(data) // 2] if is_cut else data)
            self.wfile.flush()
            self.close_connection |= is_cut

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        def log_message(self, *_: object) -> None:
            """Say nothing of single requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield proxy, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
