"""compose.yaml: healthy before it is used, closed to the network, without a password in it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tasks.launch.launcher import SECONDS_TO_STOP
from tests.infra.files import INFRA, document, leaves

COMPOSE = document(INFRA / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
ONCE = {"bucket"}  # ends when it is done
BUILT = {service["image"] for service in SERVICES.values() if "build" in service}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)")
EXAMPLE = dict(
    line.split("=", 1)
    for line in (INFRA / ".env.example").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_healthy_or_done_before_others_use_it(name: str) -> None:
    service = SERVICES[name]
    assert name in ONCE or {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"])
    for needed, how in service.get("depends_on", {}).items():
        expected = "service_completed_successfully" if needed in ONCE else "service_healthy"
        assert how == {"condition": expected}, f"{name} on {needed}"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_limits_no_capabilities_and_no_way_to_more_rights(name: str) -> None:
    service = SERVICES[name]
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_as_nobody_special(name: str) -> None:
    user = SERVICES[name].get("user")
    if name in ONCE:
        assert (user, SERVICES[name]["network_mode"]) == ("0:0", "none"), "root for a chown, and reached by nobody"
    elif SERVICES[name]["image"] in BUILT:
        assert user not in ("0:0", "root"), "the image's own user, or who owns the checkout"
    else:
        assert user not in (None, "0:0", "root")


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_built_here_or_pinned_by_digest(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image in BUILT or re.fullmatch(r"[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", image)
    assert not image.endswith(":latest")


def test_ports_are_bound_to_loopback() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_no_password_stands_in_the_file_or_in_the_example() -> None:
    secret = re.compile("PASSWORD|SECRET|TOKEN|ACCESS_KEY")
    plain = [
        f"{name}.{key}"
        for name, service in SERVICES.items()
        for key in service.get("environment", {})
        if secret.search(key) and not key.endswith("_FILE")
    ]
    assert plain == [], "give these as files under /run/secrets"
    assert {name: value for name, value in EXAMPLE.items() if secret.search(name) and value} == {}


def test_secrets_come_from_the_environment_and_each_service_gets_only_its_own() -> None:
    assert all(set(secret) == {"environment"} for secret in COMPOSE["secrets"].values())
    for name, service in SERVICES.items():
        used = {hit for _, leaf in leaves(service) for hit in re.findall(r"/run/secrets/(\w+)", str(leaf))}
        assert used == set(service.get("secrets", [])), name


def test_the_example_names_every_variable_that_is_asked_for_and_no_other() -> None:
    asked = {hit for _, leaf in leaves(COMPOSE) for hit in VARIABLE.findall(str(leaf))}
    asked |= {secret["environment"] for secret in COMPOSE["secrets"].values()} | {"COMPOSE_PROFILES"}
    assert set(EXAMPLE) == asked


def test_the_database_is_reached_by_the_server_alone() -> None:
    assert COMPOSE["networks"]["state"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "state" in service.get("networks", [])} == {
        "database",
        "server",
    }


def test_a_worker_has_time_to_write_a_checkpoint() -> None:
    workers = [service for name, service in SERVICES.items() if name.startswith("worker")]
    assert len(workers) == 2
    assert all(int(worker["stop_grace_period"].rstrip("s")) > SECONDS_TO_STOP for worker in workers)


def test_one_profile_has_the_gpu_and_the_other_differs_in_nothing_else() -> None:
    cpu, gpu = dict(SERVICES["worker"]), dict(SERVICES["worker-gpu"])
    assert (cpu.pop("profiles"), gpu.pop("profiles")) == (["cpu"], ["gpu"])
    resources = gpu.pop("deploy")["resources"]
    assert resources["limits"] == cpu.pop("deploy")["resources"]["limits"]
    assert resources["reservations"]["devices"] == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    assert cpu == gpu


def test_every_volume_is_named_and_used() -> None:
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])}
    assert {name for name in used if not name.startswith("$")} == set(COMPOSE["volumes"])


def test_prefect_sends_no_analytics() -> None:
    for name, service in SERVICES.items():
        if "build" in service:
            assert service["environment"]["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false", name
