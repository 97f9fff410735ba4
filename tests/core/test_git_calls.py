"""Git is called without a terminal: a server that wants a password is an error, not a question."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT


class _Locked(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="rows"')
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of single requests."""


@pytest.fixture
def locked_server() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Locked)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/rows.git"
    server.shutdown()
    thread.join()
    server.server_close()


ON_A_TERMINAL = """
import os, pty, sys
if not (child := pty.fork())[0]:  # with a terminal of its own that nobody types at
    from pathlib import Path
    from tasks.core.errors import ConfigError
    from tasks.telemetry.git_calls import git
    try:
        git(Path("."), "ls-remote", sys.argv[1], timeout_s=10)
    except ConfigError as error:
        print(error, flush=True)
    os._exit(0)
said = b""
try:
    while block := os.read(child[1], 1000):
        said += block
except OSError:
    pass  # the terminal is closed
print(said.decode())
"""


def test_git_asks_no_terminal_for_a_password(tmp_path: Path, locked_server: str) -> None:
    command = [sys.executable, "-c", ON_A_TERMINAL, locked_server]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert "`git ls-remote" in done.stdout, done.stderr
    assert "terminal prompts disabled" in done.stdout
