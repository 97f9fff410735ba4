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
from html import unescape
from pathlib import Path

import pytest

from tasks.report import collect, run
from tests.page.accessibility import IN_BROWSER
from tests.page.samples import CONFIG, PARAMS, distrusted, make_folders
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

    def open(self, name: str, *flags: str) -> tuple[str, list[str], list[str]]:
        """Open a page; return its document, what it logged, and what it asked to be fetched."""
        log = self.folder / "net.json"
        command = [self.program, *QUIET, f"--user-data-dir={self.folder / 'profile'}", f"--log-net-log={log}"]
        done = subprocess.run(
            [*command, *flags, "--dump-dom", f"{self.origin}/{name}"],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
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


SHOWN = "[...frames[0].document.querySelectorAll('.one')].filter(one => one.getClientRects().length)"


def _ask(browser: Browser, question: str, width: int = 1100, *flags: str) -> object:
    """Return the value of an expression of JavaScript about the page, which is framed by a page that runs scripts."""
    script = f"onload = () => {{ document.title = JSON.stringify({question}) }}"
    frame = f'<iframe src="report.html" style="border:0;width:{width}px;height:2000px"></iframe>'
    html = f"<!doctype html><title></title>{frame}<script>{IN_BROWSER}\n{script}</script>"
    (browser.folder / "frame.html").write_text(html, encoding="utf-8")
    document, _, _ = browser.open("frame.html", *flags)
    answer = re.search(r"<title>(.*?)</title>", document, re.DOTALL)
    assert answer
    return json.loads(unescape(answer[1]))


def _click(*ids: str) -> str:
    clicks = "".join(f"frames[0].document.getElementById('{name}').click(); " for name in ids)
    return f"(() => {{ {clicks}return {SHOWN}.length }})()"


def test_prompts_are_filtered_by_outcome_slice_and_judge_without_a_script_on_the_page(browser, tmp_path):
    folders = make_folders(tmp_path, prompts=60, members=("1 rules", "2 openai"))
    prompts = run(folders, PARAMS, CONFIG).answers.prompts
    shutil.copy(folders.out / "report.html", browser.folder / "report.html")

    lost = [one for one in prompts if one.score == 0]
    first_slice = next(iter(collect(folders, PARAMS).answers.slices))
    both = [one for one in lost if one.slice == first_slice]
    questions = [
        _click("outcome-all"),
        _click("outcome-lost"),
        _click("outcome-lost", "slice-0"),
        _click("outcome-all", "slice-0"),
        _click("slice-all", "judge-1", "outcome-won"),
        _click("judge-2", "outcome-lost"),
        _click("outcome-missing"),
    ]
    answers = _ask(browser, f"[{', '.join(questions)}]")
    assert 0 < len(both) < len(lost) < 60
    assert answers == [60, len(lost), len(both), 15, 0, len(lost), 0]


@pytest.mark.parametrize(("width", "flags"), [(390, []), (1100, []), (1100, ["--force-dark-mode"])])
def test_the_page_as_it_is_drawn_can_be_read_and_used_by_everybody(browser, tmp_path, width, flags):
    folders = make_folders(tmp_path, winrate=distrusted, has_champion=True, members=("1 rules", "2 openai"))
    run(folders, PARAMS, CONFIG)
    shutil.copy(folders.out / "report.html", browser.folder / "report.html")
    assert _ask(browser, "faults(frames[0])", width, *flags) == []
    ground = "frames[0].getComputedStyle(frames[0].document.body).backgroundColor"
    assert _ask(browser, ground, width, *flags) == ("rgb(20, 23, 26)" if flags else "rgb(252, 251, 248)")


def test_a_page_that_is_hard_to_read_would_be_noticed(browser):
    body = "<main><p style='color:#999'>grey</p><div style='overflow:auto;height:9px'><p>long<p>long</div></main>"
    (browser.folder / "report.html").write_text(f"<!doctype html><title>bad</title>{body}")
    assert _ask(browser, "faults(frames[0])") == ["contrast of grey", "scrolls without a keyboard: "]
