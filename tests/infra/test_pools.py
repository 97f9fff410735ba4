"""The work pools' base job templates: what Prefect asks of them, GPUs, time for a checkpoint, no secret in them."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from tasks.launch.launcher import SECONDS_TO_STOP
from tests.infra import tools
from tests.infra.files import INFRA, document, documents, leaves, pool

POOLS = ("containers", "cluster", "ecs")
PLACEHOLDER = re.compile(r"\{\{ (\w+) \}\}")


def properties(name: str) -> dict[str, Any]:
    return dict(pool(name)["variables"]["properties"])


@pytest.mark.parametrize("name", POOLS)
def test_placeholders_and_variables_are_the_same(name: str) -> None:
    used = {hit for _, leaf in leaves(pool(name)["job_configuration"]) for hit in PLACEHOLDER.findall(str(leaf))}
    assert used == set(properties(name))


@pytest.mark.parametrize("name", POOLS)
def test_a_variable_is_described_and_its_default_is_allowed_by_its_own_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(pool(name)["variables"])
    for variable, schema in properties(name).items():
        assert {"title", "description"} <= set(schema), variable
        assert (
            "default" in schema
            or variable in pool(name)["variables"].get("required", [])
            or "when left out" in (schema["description"])
        )
        if "default" in schema:
            jsonschema.validate(schema["default"], schema)


@pytest.mark.parametrize("name", POOLS)
def test_no_secret_is_given_by_value(name: str) -> None:
    secret = re.compile(r"key|secret|token|password", re.IGNORECASE)
    given = {
        variable: value
        for variable, value in properties(name)["env"]["default"].items()
        if secret.search(variable) and not value.startswith("/run/secrets/")
    }
    assert given == {}


def test_a_job_in_the_cluster_refers_to_secrets_by_name_and_key() -> None:
    pod = pool("cluster")["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    entries = pod["containers"][0]["env"]
    assert {entry["name"] for entry in entries} >= {"PREFECT_API_KEY", "AWS_SECRET_ACCESS_KEY"}
    assert all(
        set(entry) == {"name", "valueFrom"} and entry["valueFrom"]["secretKeyRef"]["optional"] for entry in entries
    )


def test_a_job_has_time_to_write_a_checkpoint_wherever_it_runs() -> None:
    grace = properties("cluster")["grace_seconds"]
    assert grace["default"] > SECONDS_TO_STOP <= grace["minimum"]
    (container,) = pool("ecs")["job_configuration"]["task_definition"]["containerDefinitions"]
    assert container["stopTimeout"] == 120, "the most that ECS allows"


def test_gpus_shared_memory_and_checkouts_are_asked_for_everywhere() -> None:
    text = {name: json.dumps(pool(name)["job_configuration"]) for name in POOLS}
    for name, words in {
        "containers": ("device_requests", "shm_size", "/checkouts"),
        "cluster": ("nvidia.com/gpu", "/dev/shm", "/checkouts", "nodeSelector", "tolerations"),
        "ecs": ("resourceRequirements", "sharedMemorySize", "/checkouts", "efsVolumeConfiguration"),
    }.items():
        assert [word for word in words if word not in text[name]] == []
    assert properties("containers")["device_requests"]["default"][0]["capabilities"] == [["gpu"]]
    assert properties("cluster")["gpus"]["default"] == 1
    assert properties("ecs")["resource_requirements"]["default"] == [{"type": "GPU", "value": "1"}]


def test_the_cluster_s_template_and_the_manifests_name_the_same_objects() -> None:
    there = {
        (made["kind"], made["metadata"]["name"])
        for path in (INFRA / "kubernetes").glob("*.yaml")
        if path.name != "kustomization.yaml"
        for made in documents(path)
    }
    defaults = {name: schema.get("default") for name, schema in properties("cluster").items()}
    assert ("ServiceAccount", defaults["service_account_name"]) in there
    assert ("PersistentVolumeClaim", defaults["checkouts_claim"]) in there
    assert ("ConfigMap", defaults["config_name"]) in there
    assert ("Namespace", defaults["namespace"]) in there
    assert document(INFRA / "kubernetes" / "secret.example.yaml")["spec"]["target"]["name"] == defaults["secret_name"]


@pytest.mark.e2e
@pytest.mark.timeout(900)  # it may be the one that installs the tools
def test_prefect_s_own_workers_make_valid_jobs_of_the_templates() -> None:
    """The server's check of a pool; Docker's arguments; a Job, a task definition and a request by their schemas."""
    said = json.loads(tools.run("python", "-m", "tests.infra.workers_script"))
    assert said == {
        "containers": {"left out": ["memswap_limit", "network_mode", "privileged", "registry_credentials"], "gpus": -1},
        "cluster": {"left out": ["annotations", "cluster_config"], "gpus": 1},
        "ecs": {
            "left out": [
                "aws_credentials",
                "cloudwatch_logs_options",
                "prefect_api_auth_string_secret_arn",
                "task_watch_poll_interval",
            ],
            "gpus": "1",
        },
    }
