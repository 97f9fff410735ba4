"""Makes of each template what Prefect's own worker would submit, and holds it to the schemas of those who would get it.

It runs in the tools' environment, which has the workers; without a server, a cluster or an account.

run as: python -m tests.infra.workers_script    prints what each template leaves out of the official one, and its GPUs
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import docker.models.containers
import kubernetes_validate
from prefect.client.schemas.objects import FlowRun
from prefect.server.schemas.actions import WorkPoolCreate
from prefect_aws.workers.ecs_worker import ECSWorker
from prefect_docker.worker import DockerWorker
from prefect_kubernetes.worker import KubernetesWorker

POOLS = Path(__file__).resolve().parents[2] / "infra" / "pools"
KUBERNETES = "1.34"
RUN = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="some-run")
NEEDED = {
    "execution_role_arn": "arn:aws:iam::123456789012:role/execution",
    "task_role_arn": "arn:aws:iam::123456789012:role/trainer",
    "cluster": "gpus",
    "efs_file_system": "fs-0123456789abcdef0",
    "efs_access_point": "fsap-0123456789abcdef0",
    "vpc_id": "vpc-0123456789abcdef0",
    "network_configuration": {"subnets": ["subnet-1"]},
    "secrets": [{"name": "HF_TOKEN", "valueFrom": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:hf"}],
}


def configured(worker: Any, name: str, values: dict[str, Any]) -> tuple[Any, list[str]]:
    """Return a run's configuration as the worker makes it, and the official template's keys that ours leaves out."""
    template = json.loads((POOLS / f"{name}.json").read_text(encoding="utf-8"))
    WorkPoolCreate(name=name, type=worker.type, base_job_template=template)  # the server's own check of a pool
    unknown = set(template["job_configuration"]) - set(worker.job_configuration.model_fields)
    assert not unknown, f"{name}: the worker knows no {unknown}"
    # a client that nobody asks: no block and no variable is named in the templates
    made = asyncio.run(worker.job_configuration.from_template_and_values(template, values, client=object()))
    made.prepare_for_flow_run(RUN)
    official = worker.get_default_base_job_template()["job_configuration"]
    return made, sorted(set(official) - set(template["job_configuration"]))


def containers() -> dict[str, Any]:
    """Docker's client takes the arguments, and makes a device request of them."""
    made, left_out = configured(DockerWorker, "containers", {})
    arguments = dict(made.container_create_kwargs, mem_limit=made.mem_limit, volumes=made.volumes, image=made.image)
    taken = docker.models.containers._create_container_args({"version": "1.43", "command": None, **arguments})
    (request,) = taken["host_config"]["DeviceRequests"]
    assert taken["host_config"]["ShmSize"] == 8 << 30
    assert taken["host_config"]["Binds"] == ["dpo-checkouts:/checkouts", "/etc/dpo-pipeline/aws:/run/secrets/aws:ro"]
    return {"left out": left_out, "gpus": request["Count"]}


def cluster() -> dict[str, Any]:
    """The Job holds to Kubernetes' own schema, strictly, and Prefect's address, key and secrets stand in it."""
    made, left_out = configured(KubernetesWorker, "cluster", {"node_selector": {"gpu": "h100"}, "memory_limit": "96Gi"})
    kubernetes_validate.validate(made.job_manifest, KUBERNETES, strict=True)
    (container,) = made.job_manifest["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry for entry in container["env"]}
    assert variables["PREFECT__FLOW_RUN_ID"]["value"] == str(RUN.id)
    assert variables["PREFECT_API_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "dpo-secrets"
    return {"left out": left_out, "gpus": container["resources"]["limits"]["nvidia.com/gpu"]}


def ecs() -> dict[str, Any]:
    """The task definition and the request to run it hold to what ECS's client takes."""
    made, left_out = configured(ECSWorker, "ecs", NEEDED)
    worker = ECSWorker("ecs")
    definition = worker._prepare_task_definition(made, region="eu-central-1", flow_run=RUN)
    worker._validate_task_definition(definition, made)
    valid("RegisterTaskDefinition", definition)
    worker._load_network_configuration = lambda *_: {}  # would ask the account
    worker._custom_network_configuration = lambda _, network, __: {"awsvpcConfiguration": network}
    request = worker._prepare_task_run_request(made, definition, "arn:aws:ecs:eu-central-1:1:task-definition/x:1", True)
    valid("RunTask", request)
    (container,) = definition["containerDefinitions"]
    assert {secret["name"] for secret in container["secrets"]} == {"HF_TOKEN"}
    assert container["logConfiguration"]["logDriver"] == "awslogs"
    return {"left out": left_out, "gpus": container["resourceRequirements"][0]["value"]}


def valid(operation: str, request: dict[str, Any]) -> None:
    """Hold a request to the shape that ECS's client knows."""
    shape = botocore.session.get_session().get_service_model("ecs").operation_model(operation).input_shape
    report = botocore.validate.ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()


def main() -> None:
    """Print what was found, as JSON on one line."""
    logging.disable(logging.WARNING)
    print(json.dumps({"containers": containers(), "cluster": cluster(), "ecs": ecs()}))


if __name__ == "__main__":
    main()
