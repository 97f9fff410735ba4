"""A run that is stopped at any moment pays for no finished call again, and ends with the same verdicts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tasks.core.errors import Preempted
from tests.judges.llm.chat_server import ChatServer
from tests.judges.llm.judging import comparisons, judged
from tests.rules.source import ROOT

PROBE = 2


def stop_at(moment: int) -> Callable[[int], None]:
    """Send SIGTERM to this process when a server is asked for the call of that number."""
    return lambda number: os.kill(os.getpid(), signal.SIGTERM) if number == moment else None


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 17, 40, 61])
def test_sigterm_at_any_moment_costs_not_one_call_more(server: ChatServer, tmp_path, moment):
    server.delay_s = 0.005
    whole = judged(server.url, tmp_path / "whole", comparisons(30))
    assert server.paid.total() == 60 + PROBE

    first = server.calls
    server.on_call = stop_at(first + moment)
    with pytest.raises(Preempted):
        judged(server.url, tmp_path / "cut", comparisons(30))
    assert judged(server.url, tmp_path / "cut", comparisons(30)) == whole
    assert server.calls == 2 * (60 + PROBE)
    assert set(server.paid.values()) == {2}


def test_sigterm_costs_not_one_call_more_where_replies_are_asked_for_again(server: ChatServer, tmp_path):
    server.plan = lambda number, body: "prose" if "Number 3." in body["messages"][-1]["content"] else None
    judged(server.url, tmp_path / "whole", comparisons(8))
    whole = server.calls
    for moment in (8, 10, 12):
        first = server.calls
        server.on_call = stop_at(first + moment)
        with pytest.raises(Preempted):
            judged(server.url, tmp_path / str(moment), comparisons(8), at_once=2)
        judged(server.url, tmp_path / str(moment), comparisons(8), at_once=2)
        assert server.calls == first + whole


def test_a_call_that_waits_for_its_next_attempt_does_not_outlive_a_stop(server: ChatServer, tmp_path, monkeypatch):
    from tasks.judges.llm import endpoint

    judged(server.url, tmp_path, comparisons(1))
    monkeypatch.setattr(endpoint, "_FIRST_WAIT_S", 60.0)
    monkeypatch.setattr(endpoint, "_LONGEST_WAIT_S", 60.0)
    server.plan = lambda number, body: "503"
    server.on_call = stop_at(10)
    began = time.monotonic()
    with pytest.raises(Preempted):
        judged(server.url, tmp_path, comparisons(20))
    assert time.monotonic() - began < 20


SCRIPT = """
import json, sys
from pathlib import Path
from tests.judges.llm.judging import comparisons, judged
url, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
verdicts = judged(url, folder, comparisons(count))
(folder / "verdicts.json").write_text(json.dumps([[v.prompt_id, v.order, v.p_candidate] for v in verdicts]))
"""


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_sigkill_at_random_moments_loses_at_most_what_was_in_flight(server: ChatServer, tmp_path):
    server.delay_s = 0.02
    count, at_once, kills = 100, 16, 20
    words = [sys.executable, "-c", SCRIPT, server.url]
    subprocess.run([*words, str(tmp_path / "whole"), str(count)], check=True, cwd=ROOT, capture_output=True)
    whole = (tmp_path / "whole/verdicts.json").read_bytes()

    coin, lost = random.Random(0), 0
    for number in range(kills):
        folder, before = tmp_path / str(number), server.paid.total()
        process = subprocess.Popen([*words, str(folder), str(count)], cwd=ROOT, stderr=subprocess.DEVNULL)
        at = before + coin.randrange(1, 2 * count)
        while process.poll() is None and server.paid.total() < at:
            time.sleep(0.002)
        process.kill()
        process.wait()
        subprocess.run([*words, str(folder), str(count)], check=True, cwd=ROOT, capture_output=True)
        assert (folder / "verdicts.json").read_bytes() == whole
        more = server.paid.total() - before - 2 * count - PROBE
        assert 0 <= more <= at_once
        lost += more
    assert lost > 0, "no kill met a call in flight"
    assert len(json.loads(whole)) == 2 * count
