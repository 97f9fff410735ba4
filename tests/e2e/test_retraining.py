"""New preference data in a bucket, from arrival to a branch: once only, and only new rows cost anything."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.demo.preferences.preferences import demo_rows
from tests import s3_server
from tests.e2e.conftest import GIT, Checkout
from tests.flows import prefect_server
from tests.flows.prefect_server import PrefectServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROWS = list(demo_rows(360, seed=3))

Team = tuple[Checkout, Callable[[str, list[dict[str, Any]]], None], PrefectServer]


@pytest.fixture(scope="module")
def team(new_checkout: Callable[[str], Checkout], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A checkout whose champion was trained on 200 pairs of a bucket, how pairs get there, and a Prefect server."""
    with pytest.MonkeyPatch.context() as monkeypatch, s3_server.serving(monkeypatch, "feedback", "team") as bucket:
        versioned = {"Status": "Enabled"}
        bucket.client.put_bucket_versioning(Bucket="feedback", VersioningConfiguration=versioned)
        put(bucket, "first", ROWS[:200])
        checkout = first_run(new_checkout("retraining"))
        with prefect_server.running(tmp_path_factory.mktemp("server") / "prefect") as server:
            yield checkout, functools.partial(put, bucket), server


def test_pairs_appended_to_a_bucket_become_a_judged_version_and_a_branch(team: Team) -> None:
    checkout, append, server = team
    (champion,) = versions(checkout)
    append("second", ROWS[200:300])
    result = retrain(checkout, server)
    assert (result["status"], result["new_pairs"]) == ("trained", 100)
    # the champion, which training goes on from, is another reference than the base: it scores each row once
    assert work(result) == {"pairs_tokenised": 100, "pairs_scored": 300, "recalled": 0}
    (old, new) = sorted(versions(checkout), key=lambda version: version["serial"])
    assert old["digest"] == champion["digest"]
    params = checkout.run(*GIT, "show", f"{result['branch']}:params.yaml").stdout
    assert re.search(rf"init_adapter: registry:demo@{champion['digest']}", params)
    assert re.search(rf"champion: registry:demo@{champion['digest']}", params)
    changed = checkout.run(*GIT, "show", "--name-only", "--format=", result["branch"]).stdout.split()
    assert changed == ["data/raw/feedback.dvc", "dvc.lock", "params.yaml"]
    assert new["serial"] == result["serial"] == 2
    assert ("champion" in new["aliases"]) is result["promoted"]
    message = checkout.run(*GIT, "log", "-1", "--format=%B", result["branch"]).stdout
    assert "Retrain on 100 new pairs" in message
    assert re.search(r"champion: 0\.\d{4} \(0\.\d{4} to \d\.\d{4}\)", message)
    assert retrain(checkout, server)["status"] == "nothing new"
    assert len(versions(checkout)) == 2


@pytest.mark.nightly
def test_under_one_champion_only_new_rows_are_tokenised_and_scored(team: Team) -> None:
    checkout, append, server = team
    if len(versions(checkout)) == 1:
        append("second", ROWS[200:300])
        retrain(checkout, server)
    if "champion" not in next(version for version in versions(checkout) if version["serial"] == 1)["aliases"]:
        registry(checkout, "rollback", "demo", "--reason", "the test goes on from the first one")
    append("third", ROWS[300:])
    result = retrain(checkout, server)
    assert result["status"] == "trained"
    assert work(result) == {"pairs_tokenised": 60, "pairs_scored": 60, "recalled": 300}


def first_run(checkout: Checkout) -> Checkout:
    """Import the bucket's rows, run everything, and make what came of it the champion."""
    checkout.dvc("remote", "modify", "local", "url", "s3://team/cache")
    checkout.dvc("import-url", "--quiet", "--version-aware", "s3://feedback/pairs", "data/raw/feedback")
    checkout.hasten_base(60)
    checkout.set_params(
        ingest={"sources": ["data/raw/feedback/*.jsonl"]},
        train={"epochs": 1},
        respond={"max_prompts": 24, "max_new_tokens": 30},
        register={"root": "s3://team/models"},
    )
    checkout.dvc("repro", "--quiet")
    registry(checkout, "promote", "demo@v1", "--override", "there is no other one")
    checkout.commit("The first version")
    return checkout


def put(bucket: s3_server.Server, name: str, rows: list[dict[str, Any]]) -> None:
    body = "".join(json.dumps(row) + "\n" for row in rows)
    bucket.client.put_object(Bucket="feedback", Key=f"pairs/{name}.jsonl", Body=body.encode())


def versions(checkout: Checkout) -> list[dict[str, Any]]:
    return list(json.loads(registry(checkout, "list", "--json")))


def registry(checkout: Checkout, *words: str) -> str:
    return checkout.run(sys.executable, "-m", "tasks.registry", *words).stdout


def retrain(checkout: Checkout, server: PrefectServer) -> dict[str, Any]:
    summary = checkout.folder / "runs" / "summary.json"
    command = [sys.executable, "-m", "flows.retrain", "--minimum-new-pairs", "50", "--push", "--summary", str(summary)]
    done = subprocess.run(command, cwd=checkout.folder, env=server.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(summary.read_text()))


def work(result: dict[str, Any]) -> dict[str, int]:
    """Return how many pairs a retraining tokenised, scored with the reference, and knew from the row store."""
    noted = {}
    for stage in ("encode", "reference"):
        noted[stage] = json.loads((Path(result["report"]) / "receipts" / f"{stage}.json").read_text())["notes"]
    tokenised, scored = noted["encode"]["pairs_tokenised"], noted["reference"]["pairs_scored"]
    return {
        "pairs_tokenised": tokenised,
        "pairs_scored": scored,
        "recalled": noted["reference"]["pairs_from_row_store"],
    }
