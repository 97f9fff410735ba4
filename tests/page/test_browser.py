"""The page in a real browser: nothing is fetched, nothing is logged, nothing sticks out on a phone."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.report import run
from tests.page.samples import CONFIG, PARAMS, make_folders
from tests.page.test_webpage import HOSTILE

pytestmark = pytest.mark.browser

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
]


class Browser:
    """Headless Chromium, and a server on loopback for the pages of one folder."""

    def __init__(self, program: str, folder: Path, origin: str) -> None:
        self.program, self.folder, self.origin = program, folder, origin

    def open(self, name: str) -> tuple[str, list[str], list[str]]:
        """Open a page; return its document, what it logged, and what it asked to be fetched."""
        log = self.folder / "net.json"
        command = [self.program, *QUIET, f"--user-data-dir={self.folder / 'profile'}", f"--log-net-log={log}"]
        done = subprocess.run(
            [*command, "--dump-dom", f"{self.origin}/{name}"], capture_output=True, text=True, timeout=120, check=True
        )
        logged = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, logged, self._asked(log, name)

    def _asked(self, log: Path, name: str) -> list[str]:
        """Return the addresses that the page itself (not the browser) asked for."""
        params = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
        mine = [one for one in params if "url" in one and self.origin in str(one.get("initiator"))]
        return sorted({one["url"] for one in mine} - {f"{self.origin}/{name}"})


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed here (on Debian: apt-get install chromium)")
    pages = tmp_path / "pages"
    pages.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(pages)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Browser(program, pages, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


def _publish(browser: Browser, root: Path, hostile: str = "") -> None:
    folders = make_folders(root, hostile=hostile)
    run(folders, PARAMS, CONFIG)
    shutil.copy(folders.out / "report.html", browser.folder / "report.html")


@pytest.mark.parametrize("hostile", ["", HOSTILE])
def test_the_page_opens_without_a_console_message_or_a_request(browser, tmp_path, hostile):
    _publish(browser, tmp_path, hostile)
    document, logged, asked = browser.open("report.html")
    assert "held-out prompts" in document
    assert logged == []
    assert asked == []


def test_a_page_that_does_fetch_and_log_would_be_noticed(browser):
    script = "<script>console.error('noticed')</script><img src='other.png'>"
    (browser.folder / "bad.html").write_text(f"<!doctype html><title>bad</title>{script}")
    _, logged, asked = browser.open("bad.html")
    assert any("noticed" in line for line in logged)
    assert f"{browser.origin}/other.png" in asked


@pytest.mark.parametrize("width", [360, 390, 768, 1200])
def test_nothing_sticks_out_at_the_width_of_a_phone_a_tablet_or_a_desk(browser, tmp_path, width):
    _publish(browser, tmp_path)
    frame = (
        f'<!doctype html><iframe src="report.html" style="border:0;width:{width}px;height:2000px"></iframe><script>'
        "onload = () => { document.title = frames[0].document.documentElement.scrollWidth }</script>"
    )
    (browser.folder / "frame.html").write_text(frame)
    document, _, _ = browser.open("frame.html")
    found = re.search(r"<title>(\d+)</title>", document)
    assert found
    assert int(found[1]) <= width
