"""Terraform: formatted, valid, applied to a local server of AWS's protocol; and its roles are enough, and no more.

The server (moto) asks who may do what to which object, as AWS does, but knows none of S3's conditions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError

from tasks.core.errors import StorageError
from tasks.registry.gate.gate import GateConfig
from tasks.registry.release.release import promote, register, rollback
from tasks.registry.stores.open_store import open_store
from tasks.registry.versions.registry import Registry
from tasks.rowstore.row_store import RowStore
from tasks.upkeep.compaction import compact
from tests import s3_server
from tests.core.row_writer import append
from tests.infra.files import INFRA
from tests.registry.samples import sample, scores_of
from tests.s3_server import Server

pytestmark = pytest.mark.e2e
SETTINGS = {"region": "us-east-1", "bucket": "team-dpo", "github_repository": "team/dpo"}
ROOT = "s3://team-dpo/registry"
NEVER, ALWAYS = b"inf", b"0"  # after how many requests the server begins to ask who is there


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the configuration, initialized with the provider as it is locked."""
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not here")
    here = tmp_path_factory.mktemp("terraform") / "terraform"
    shutil.copytree(INFRA / "terraform", here, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*", "*.tfvars"))
    if not run(here, "init", "-input=false", "-lockfile=readonly").stdout.count("successfully initialized"):
        pytest.skip("terraform finds no provider: give it a mirror with TF_CLI_CONFIG_FILE")
    return here


def run(here: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run terraform with the settings above."""
    settings = {f"TF_VAR_{name}": value for name, value in SETTINGS.items()}
    environment = {**os.environ, "TF_IN_AUTOMATION": "1", "AWS_EC2_METADATA_DISABLED": "true", **settings, **variables}
    command = ["terraform", *words, *(["-no-color"] if words[0] != "output" else [])]
    return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=170)


def test_it_is_formatted_and_valid(folder: Path) -> None:
    for words in (["fmt", "-check", "-diff"], ["validate"]):
        done = run(folder, *words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_settings_are_refused_by_name_all_at_once(folder: Path) -> None:
    wrong = {
        "region": "Frankfurt",
        "bucket": "with.dots",
        "github_repository": "team/*",
        "github_branch": "*",
        "kms_key_arn": "alias/mine",
        "prefixes": '{cache="all",rows="all"}',
        "noncurrent_days": "0",
    }
    told = {f"TF_VAR_{name}": value for name, value in wrong.items()}
    done = run(folder, "plan", "-input=false", "-refresh=false", **told, **s3_server.KEYS)
    assert done.returncode == 1
    assert done.stderr.count("Invalid value for variable") == len(wrong)
    assert [name for name in wrong if f"var.{name} is" not in done.stderr] == []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    with s3_server.serving(monkeypatch) as running:
        yield running
        ask(running, NEVER)


def ask(server: Server, after: bytes) -> None:
    """Have the server ask, from now on or never, whether whoever comes may do what they want."""
    urlopen(Request(f"{server.url}/moto-api/reset-auth", data=after, headers={"Content-Type": "text/plain"})).close()


@pytest.fixture
def become(folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Apply the rights to the server; return what makes this process one of the roles."""
    targets = [f"-target=aws_iam_{kind}.this" for kind in ("role_policy", "policy")]
    done = run(folder, "apply", "-auto-approve", "-input=false", *targets)
    assert done.returncode == 0, done.stdout + done.stderr
    arns = json.loads(run(folder, "output", "-json").stdout)
    roles = dict(arns["role_arns"]["value"])
    roles["keeper"] = keeper(arns["policy_arns"]["value"]["keeper"])
    keys = {name: assumed(arn) for name, arn in roles.items()}

    def as_role(name: str) -> None:
        for variable, value in keys[name].items():
            monkeypatch.setenv(variable, value)

    ask(server, ALWAYS)
    return as_role


def keeper(policy: str) -> str:
    """Make a role for the rights that come without one; return its ARN."""
    iam = boto3.session.Session().client("iam")
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": "*"}]}
    made = iam.create_role(RoleName="keeper", AssumeRolePolicyDocument=json.dumps(trust))
    iam.attach_role_policy(RoleName="keeper", PolicyArn=policy)
    return str(made["Role"]["Arn"])


def assumed(role: str) -> dict[str, str]:
    """Return the keys of a role, as environment variables."""
    answer = boto3.session.Session().client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    names = {"AccessKeyId": "AWS_ACCESS_KEY_ID", "SecretAccessKey": "AWS_SECRET_ACCESS_KEY"}
    names["SessionToken"] = "AWS_SESSION_TOKEN"
    return {variable: answer[name] for name, variable in names.items()}


def registry() -> Registry:
    """Open the registry as whoever this process is now."""
    return Registry(open_store(ROOT), "demo")


def client() -> Any:
    return boto3.session.Session().client("s3")


def is_refused(key: str, do: str = "put_object") -> bool:
    """Tell whether this role may not write (or remove, or read) a key."""
    try:
        getattr(client(), do)(Bucket=SETTINGS["bucket"], Key=key)
    except ClientError as error:
        return bool(error.response["Error"]["Code"] == "AccessDenied")
    return False


def dvc(*words: str) -> None:
    """Run DVC here as whoever this process is now."""
    done = subprocess.run([sys.executable, "-m", "dvc", *words, "--quiet"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"dvc {words[0]}: {done.stdout}{done.stderr}"


def test_each_role_is_enough_for_what_it_does_and_not_for_what_others_do(
    become: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the row store keeps copies under runs/
    become("trainer")
    digests = []
    for seed in range(2):
        candidate, evidence = sample(seed, scores_of(80 + seed, losses=20 - seed))
        digests.append(register(registry(), candidate, evidence, "champion", GateConfig()).digest)
    rows = RowStore.open("s3://team-dpo/rows", "reference")
    for number in range(3):
        append(rows, np.array([number]))
    assert compact(rows)[0] == 3, "small segments are merged into one, and removed"
    assert len(client().list_objects_v2(Bucket=SETTINGS["bucket"], Prefix="rows/")["Contents"]) == 1
    (tmp_path / "data").write_text("pairs\n")
    for words in (
        ["init", "--no-scm"],
        ["remote", "add", "-d", "bucket", "s3://team-dpo/cache"],
        ["add", "data"],
        ["push"],
    ):
        dvc(*words)
    assert is_refused("elsewhere")
    assert is_refused(f"registry/demo/versions/{digests[0]}/manifest.json", "delete_object")
    (cached,) = client().list_objects_v2(Bucket=SETTINGS["bucket"], Prefix="cache/")["Contents"]
    assert is_refused(cached["Key"], "delete_object")

    become("reader")
    shutil.rmtree(tmp_path / ".dvc" / "cache")
    (tmp_path / "data").unlink()
    dvc("pull")
    assert (tmp_path / "data").read_text() == "pairs\n"
    assert registry().check(digests[0]).digest == digests[0]
    registry().pull(digests[1], tmp_path / "pulled")
    for prefix in ("cache", "rows", "registry/demo/log"):
        assert is_refused(f"{prefix}/mine")

    become("promoter")
    promote(registry(), digests[0], "stable")
    promote(registry(), digests[1], "stable", override="a person says so")
    rollback(registry(), "stable", "and takes it back")
    for prefix in ("cache", "rows", "registry/demo/versions/x"):
        assert is_refused(f"{prefix}/mine")

    become("keeper")
    version = registry().read(digests[1])
    for name in (*version.files, "manifest.json"):
        open_store(ROOT).remove(f"demo/versions/{digests[1]}/{name}")
    open_store(ROOT).sweep(0)
    assert not is_refused(cached["Key"], "delete_object")
    assert is_refused("registry/demo/log/00000001.json", "delete_object"), "nobody removes from the log"

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    with pytest.raises(StorageError):
        registry().history()
