"""Compose's services, stood up for a test: a checkout, secrets and ports of their own, and nothing left behind."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3

from tests.flows.prefect_server import PrefectServer
from tests.infra.files import INFRA
from tests.ports import free_ports

# A compose file on top, for a place that cannot pull the images: DPO_COMPOSE_OVERRIDE=/path/to/override.yaml
OVERRIDE = os.environ.get("DPO_COMPOSE_OVERRIDE", "")
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")


def engine_answers() -> bool:
    """Tell whether this machine runs a Docker engine, with compose."""
    try:
        asked = [subprocess.run(["docker", *words], capture_output=True) for words in (["info"], ["compose", "ls"])]
    except FileNotFoundError:
        return False
    return all(done.returncode == 0 for done in asked)


class Stack:
    """The services of ``compose.yaml`` around a checkout, started as infra/README says.

    Attributes:
        server: Prefect's server among them.
        env: What stands in the file ``.env``.
    """

    def __init__(self, checkout: Path, home: Path) -> None:
        self.server = PrefectServer(home)
        owner = checkout.stat()
        (s3_port,) = free_ports(1)
        self.env = {
            **{name: secrets.token_hex(24) for name in SECRETS},
            "S3_BUCKET": "dpo",
            "COMPOSE_PROFILES": "cpu",
            "IMAGE": "dpo-pipeline:cpu",
            "CHECKOUT": str(checkout),
            "RUN_AS": f"{owner.st_uid}:{owner.st_gid}",
            "WORKER_CPUS": str(os.cpu_count()),
            "WORKER_MEMORY": "8g",
            "PREFECT_PORT": str(self.server.port),
            "S3_PORT": str(s3_port),
        }
        settings = home / ".env"
        home.mkdir()
        settings.write_text("".join(f"{name}={value}\n" for name, value in self.env.items()))
        files = [word for file in (INFRA / "compose.yaml", OVERRIDE) if file for word in ("-f", str(file))]
        project = f"dpo-test-{self.server.port}"
        self._words = ["docker", "compose", "--project-name", project, "--env-file", str(settings), *files]

    def compose(self, *words: str, timeout: float = 300) -> str:
        """Run a command of compose; return what it printed."""
        # the shell's own words would come before those of the file
        env = {name: value for name, value in os.environ.items() if name not in self.env}
        done = subprocess.run([*self._words, *words], env=env, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def up(self, *services: str) -> None:
        """Start everything, or some services, and wait until all of it is healthy; the first build takes minutes."""
        self.compose("up", "--build", "--detach", "--wait", *services, timeout=1500)

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("down", "--volumes", "--timeout", "10")

    def in_worker(self, *words: str) -> str:
        """Run a command beside the worker, with its keys."""
        return self.compose("exec", "-T", "worker", "entrypoint", *words)

    def containers(self) -> list[dict[str, Any]]:
        """Return what `docker inspect` tells of each container."""
        listed = self.compose("ps", "--all", "--quiet").split()
        done = subprocess.run(["docker", "inspect", *listed], capture_output=True, text=True, check=True)
        return list(json.loads(done.stdout))

    def objects(self, prefix: str) -> Sequence[str]:
        """Return the keys under a prefix of the bucket, asked from outside."""
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.env['S3_PORT']}",
            region_name="us-east-1",
            aws_access_key_id=self.env["S3_ACCESS_KEY"],
            aws_secret_access_key=self.env["S3_SECRET_KEY"],
        )
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.env["S3_BUCKET"], Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]
