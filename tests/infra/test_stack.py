"""Compose's services, really running: healthy, closed, and a run that is stopped with its worker goes on.

Needs a Docker engine; the images are pulled and built, which takes minutes the first time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Checkout, new_checkout  # noqa: F401
from tests.e2e.kills import RESUMED, STEPS_DONE
from tests.e2e.test_kills import small
from tests.flows.conftest import wait_for
from tests.infra.stack import SECRETS, Stack, engine_answers

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(2400)]
SOMEBODY = 4321  # has no name in the image


@pytest.fixture(scope="module")
def checkout(new_checkout: Callable[[str], Checkout]) -> Checkout:  # noqa: F811
    if not engine_answers():
        pytest.skip("no Docker engine with compose answers here")
    made = small(new_checkout("composed"))
    made.set_params(register={"root": "s3://dpo/registry"})
    made.dvc("remote", "modify", "--local", "local", "url", "s3://dpo/cache")
    made.commit("A registry in the store")
    if os.getuid() == 0:  # a worker that is root would show nothing of rights and names
        for path in (made.folder, *made.folder.rglob("*")):
            os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    return made


@pytest.fixture(scope="module")
def stack(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(checkout.folder, tmp_path_factory.mktemp("stack") / "home")
    try:
        made.up()
        made.in_worker("python", "-m", "flows.serve", "--set-up-only")
        yield made
    finally:
        made.down()


def test_every_service_is_healthy_or_done(stack: Stack) -> None:
    states = {
        found["Config"]["Labels"]["com.docker.compose.service"]: found["State"].get("Health", {}).get("Status")
        or found["State"]["ExitCode"]
        for found in stack.containers()
    }
    assert states == {"bucket": 0, **dict.fromkeys(("database", "server", "store", "worker"), "healthy")}


def test_no_secret_stands_in_what_docker_tells_of_a_container(stack: Stack) -> None:
    told = str(stack.containers())
    assert "POSTGRES_PASSWORD_FILE" in told
    assert [name for name in SECRETS if stack.env[name] in told] == []


def test_the_worker_reaches_server_and_store_and_not_the_database(stack: Stack) -> None:
    ask = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"
    for host, port in (("server", "4200"), ("store", "7070")):
        stack.in_worker("python", "-c", ask, host, port)
    with pytest.raises(AssertionError, match=r"Name or service not known|name resolution"):
        stack.in_worker("python", "-c", ask, "database", "5432")


def test_the_worker_is_the_owner_of_the_checkout_and_has_a_name(stack: Stack) -> None:
    assert stack.in_worker("python", "-c", "import getpass, os; print(os.getuid(), getpass.getuser())").split() == [
        stack.env["RUN_AS"].split(":")[0],
        stack.in_worker("id", "-un").strip(),
    ]


def test_a_run_that_is_stopped_with_its_worker_goes_on_and_registers_in_the_store(
    stack: Stack, checkout: Checkout
) -> None:
    run = stack.server.run("pipeline/nightly")
    wait_for(lambda: re.search(STEPS_DONE, stack.compose("logs", "worker")), "the first steps of training", 600)
    stack.compose("stop", "worker")
    assert stack.server.state(run)["type"] == "CRASHED"
    stack.up("worker")
    assert stack.server.wait(stack.server.run("pipeline/nightly"), 600)["type"] == "COMPLETED"
    said = stack.compose("logs", "worker")
    assert RESUMED.search(said)
    assert said.count("Running stage 'encode'") == 1, "what was done stays done"
    assert stack.in_worker("python", "-m", "tasks.registry", "list", "--json").count('"digest"') == 1
    assert [key for key in stack.objects("registry/") if key.endswith("adapter_model.safetensors")]
    stack.in_worker("dvc", "push", "--quiet")
    assert stack.objects("cache/")
    assert {path.stat().st_uid for path in owned(checkout.folder)} == {int(stack.env["RUN_AS"].split(":")[0])}


def owned(folder: Path) -> Iterator[Path]:
    """Yield what the worker wrote into a checkout."""
    yield folder / "dvc.lock"
    yield from (folder / "runs").rglob("*")
