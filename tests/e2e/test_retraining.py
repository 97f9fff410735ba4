"""New preference data in a bucket, from arrival to a branch: only new rows are tokenised, and once only."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.demo.pairs import demo_rows
from tests import s3_server
from tests.e2e.conftest import GIT, Checkout
from tests.flows import prefect_server
from tests.flows.prefect_server import PrefectServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROWS = list(demo_rows(300, seed=3))


def test_pairs_appended_to_a_bucket_become_a_judged_version_and_a_branch(
    new_checkout: Callable[[str], Checkout], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with s3_server.serving(monkeypatch, "feedback", "team") as bucket:
        versioned = {"Status": "Enabled"}
        bucket.client.put_bucket_versioning(Bucket="feedback", VersioningConfiguration=versioned)
        put(bucket, "first", ROWS[:200])
        checkout = first_run(new_checkout("retraining"))
        (champion,) = versions(checkout)
        put(bucket, "second", ROWS[200:])
        with prefect_server.running(tmp_path / "prefect") as server:
            result = retrain(checkout, server)
            again = retrain(checkout, server)
        assert (result["status"], result["new_pairs"]) == ("trained", 100)
        receipts = Path(result["report"]) / "receipts"
        assert notes(receipts, "encode")["pairs_tokenised"] == 100
        scored = notes(receipts, "reference")  # under the champion, which is the reference now
        assert scored["pairs_scored"] + scored["pairs_from_row_store"] == 300
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
        assert again["status"] == "nothing new"
        assert len(versions(checkout)) == 2


def first_run(checkout: Checkout) -> Checkout:
    """Import the bucket's rows, run everything, and make what came of it the champion."""
    checkout.dvc("remote", "modify", "local", "url", "s3://team/cache")
    checkout.dvc("import-url", "--quiet", "--version-aware", "s3://feedback/pairs", "data/raw/feedback")
    checkout.set_params(
        base={"demo.steps": 80},
        ingest={"sources": ["data/raw/feedback/*.jsonl"]},
        train={"epochs": 1},
        respond={"max_prompts": 40, "max_new_tokens": 40},
        register={"root": "s3://team/models"},
    )
    checkout.dvc("repro", "--quiet")
    checkout.run(sys.executable, "-m", "tasks.registry", "promote", "demo@v1", "--override", "there is no other one")
    checkout.commit("The first version")
    return checkout


def put(bucket: s3_server.Server, name: str, rows: list[dict[str, Any]]) -> None:
    body = "".join(json.dumps(row) + "\n" for row in rows)
    bucket.client.put_object(Bucket="feedback", Key=f"pairs/{name}.jsonl", Body=body.encode())


def versions(checkout: Checkout) -> list[dict[str, Any]]:
    return list(json.loads(checkout.run(sys.executable, "-m", "tasks.registry", "list", "--json").stdout))


def retrain(checkout: Checkout, server: PrefectServer) -> dict[str, Any]:
    summary = checkout.folder / "runs" / "summary.json"
    command = [sys.executable, "-m", "flows.retrain", "--minimum-new-pairs", "50", "--push", "--summary", str(summary)]
    done = subprocess.run(command, cwd=checkout.folder, env=server.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(summary.read_text()))


def notes(receipts: Path, stage: str) -> dict[str, Any]:
    return dict(json.loads((receipts / f"{stage}.json").read_text())["notes"])
