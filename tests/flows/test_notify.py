"""Notifications on a real server, sent to a webhook of the test's own: what arrives, when, and what does not."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import ROOT, wait_for
from tests.flows.prefect_server import PrefectServer, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

DECISION = {"numbers": {"win_rate": 0.87, "lower_bound": 0.84512345}, "reasons": ["the bound lies above one half"]}
MAKE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
said = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="test", url=sys.argv[1], json_data=said).save("people", overwrite=True)
from prefect.blocks.system import Secret
Secret(value="x").save("secret", overwrite=True)
"""
EMIT = """
import sys
from pathlib import Path
from prefect import flow
from flows.events import emit_release

@flow(name="pipeline")
def release():
    emit_release(Path(sys.argv[1]))

release()
"""


class Webhook(ThreadingHTTPServer):
    """A server on loopback that keeps what is posted to it."""

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def of(self, subject: str) -> list[str]:
        """The bodies that came under a subject."""
        return [one["body"] for one in self.heard if one["subject"] == subject]


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    found = Webhook()
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture(scope="module")
def server(webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server with the block custom-webhook/people, told to notify it, twice."""
    with running(tmp_path_factory.mktemp("notify") / "prefect") as found:
        python(found, "-c", MAKE_BLOCK, webhook.url)
        for _ in range(2):
            output = python(found, "-m", "flows.notify", "--block", "custom-webhook/people").stdout
        assert output == "custom-webhook/people: notified of failed runs, refused versions and promoted versions\n"
        yield found


def python(server: PrefectServer, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    env = {**server.env, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def automations(server: PrefectServer) -> dict[str, list[str]]:
    """The blocks that each automation tells."""
    found = server.post("/automations/filter")
    assert len({one["name"] for one in found}) == len(found)
    return {one["name"]: [action["block_document_id"] for action in one["actions"]] for one in found}


def release(server: PrefectServer, folder: Path, promoted: bool) -> None:
    """Tell, from a run of the flow, what became of a version."""
    entry = {"name": "demo", "version": "1f0c9a2b" * 8, "serial": 4, "alias": "champion", "promoted": promoted}
    results = folder / "results" / "register"
    results.mkdir(parents=True)
    (results / "registration.json").write_text(json.dumps(entry))
    (results / "decision.json").write_text(json.dumps(DECISION if promoted else {"reasons": ["12 < 50", "a guard"]}))
    python(server, "-c", EMIT, str(folder))


def ended(server: PrefectServer, flow: str, state: str, message: str) -> str:
    """Make a run of a flow that ends so, as a worker that found it dead would report it; return its name."""
    made = server.post("/flows/", {"name": flow})
    run = server.post("/flow_runs/", {"flow_id": made["id"], "name": f"{flow} {state}", "state": {"type": "RUNNING"}})
    words = {"type": state, "name": state.title(), "message": message}
    server.post(f"/flow_runs/{run['id']}/set_state", {"state": words, "force": True})
    return f"{flow} {state}: {state.title()}"


def test_setting_up_twice_leaves_one_automation_a_matter(server: PrefectServer) -> None:
    found = automations(server)
    assert sorted(found) == ["dpo: a run failed", "dpo: a version was promoted", "dpo: a version was refused"]
    assert {len(blocks) for blocks in found.values()} == {1}


def test_a_promotion_arrives_with_version_evidence_and_the_run(
    server: PrefectServer, webhook: Webhook, tmp_path: Path
) -> None:
    release(server, tmp_path, promoted=True)
    wait_for(lambda: webhook.of("demo@v4 was promoted"), "the notification", 60)
    (body,) = webhook.of("demo@v4 was promoted")
    *lines, link = body.splitlines()
    assert lines == [
        "version 1f0c9a2b1f0c",
        "win rate 0.87",
        "lower bound 0.8451",
        "- the bound lies above one half",
    ]
    assert "/runs/flow-run/" in link


def test_a_refusal_arrives_with_its_reasons_where_there_are_no_numbers(
    server: PrefectServer, webhook: Webhook, tmp_path: Path
) -> None:
    release(server, tmp_path, promoted=False)
    wait_for(lambda: webhook.of("demo@v4 was refused"), "the notification", 60)
    (body,) = webhook.of("demo@v4 was refused")
    assert body.splitlines()[:3] == ["version 1f0c9a2b1f0c", "- 12 < 50", "- a guard"]


def test_a_run_that_fails_arrives_with_its_name_its_message_and_its_link(
    server: PrefectServer, webhook: Webhook, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text("register: {name: demo, root: registry}\n")
    python(server, "-m", "flows.promote", "demo@v9", "--workspace", str(tmp_path), code=1)
    wait_for(lambda: webhook.of("promote demo@v9: Failed"), "the notification", 60)
    (body,) = webhook.of("promote demo@v9: Failed")
    message, link = body.splitlines()
    assert message.startswith("registry: ")
    assert "/runs/flow-run/" in link


def test_a_crash_arrives_and_what_ended_well_or_is_not_ours_does_not(server: PrefectServer, webhook: Webhook) -> None:
    strangers = [
        ended(server, "pipeline", "COMPLETED", "all is well"),
        ended(server, "pipeline", "CANCELLED", "somebody stopped it"),
        ended(server, "somebody-elses", "FAILED", "not ours"),
    ]
    crashed = ended(server, "retrain", "CRASHED", "the machine is gone")  # the last: the others came before it
    wait_for(lambda: webhook.of(crashed), "the notification", 60)
    assert webhook.of(crashed)[0].startswith("the machine is gone\n")
    assert [name for name in strangers if webhook.of(name)] == []


@pytest.mark.parametrize(
    ("block", "error"),
    [
        ("slack-webhook/nobody", "the server has no block slack-webhook/nobody — make it"),
        ("no-type/nobody", "the server has no block no-type/nobody — make it"),
        ("secret/secret", "the block secret/secret sends no notifications — make it"),
        ("people", "--block people is not a TYPE/NAME — give, for example, slack-webhook/releases"),
    ],
)
def test_a_block_that_cannot_notify_is_refused_in_one_line(server: PrefectServer, block: str, error: str) -> None:
    before = automations(server)
    said = python(server, "-m", "flows.notify", "--block", block, code=1).stderr
    assert said.startswith(f"error: {error}")
    assert len(said.splitlines()) == 1
    if "/" in block:
        assert "blocks that notify: custom-webhook/people; types that can: custom-webhook, " in said
        assert "slack-webhook" in said.rpartition("types that can")[2]
    assert automations(server) == before


def test_removing_leaves_none_and_may_be_done_again(server: PrefectServer) -> None:
    assert python(server, "-m", "flows.notify", "--remove").stdout == "3 automations removed\n"
    assert automations(server) == {}
    assert python(server, "-m", "flows.notify", "--remove").stdout == "0 automations removed\n"


def test_without_a_server_it_says_so_in_one_line(server: PrefectServer, tmp_path: Path) -> None:
    gone = PrefectServer(tmp_path / "gone")
    said = python(gone, "-m", "flows.notify", "--remove", code=1).stderr
    assert said.startswith(f"error: no Prefect server answers at {gone.url} (")
