"""The manifests: least rights, no secret by value, time for a checkpoint, names that agree; many machines that meet."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.launch.launcher import SECONDS_TO_STOP
from tests.infra import tools
from tests.infra.files import INFRA, document, documents, leaves
from tests.ports import free_ports

HERE = INFRA / "kubernetes"
JOBSET = document(HERE / "multi-node" / "jobset.yaml")
PYTORCHJOB = document(HERE / "multi-node" / "pytorchjob.yaml")
OBJECTS = [made for path in sorted(HERE.glob("*.yaml")) for made in documents(path) if path.stem != "kustomization"]
KUBERNETES = "1.34"


def of_kind(kind: str) -> list[Any]:
    return [made for made in OBJECTS if made["kind"] == kind]


def pod_templates() -> Iterator[tuple[str, Any]]:
    """Yield every template of a pod, with a name."""
    yield "worker", of_kind("Deployment")[0]["spec"]["template"]
    yield "jobset", JOBSET["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    yield "pytorchjob", PYTORCHJOB["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]


PODS = dict(pod_templates())
TRAINERS = ("jobset", "pytorchjob")


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_as_restricted_as_its_namespace_asks(name: str) -> None:
    assert of_kind("Namespace")[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = PODS[name]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001, "the image's user"
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", PODS)
def test_a_container_says_what_it_takes_and_names_a_tag(name: str) -> None:
    for container in PODS[name]["spec"]["containers"]:
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert re.search(r":(?!latest)[\w.-]+$", container["image"])


@pytest.mark.parametrize("name", PODS)
def test_what_a_pod_refers_to_is_there(name: str) -> None:
    there = {(made["kind"], made["metadata"]["name"]) for made in OBJECTS}
    there |= {("Secret", made["spec"]["target"]["name"]) for made in of_kind("ExternalSecret")}
    pod = PODS[name]["spec"]
    asked = {("ServiceAccount", pod["serviceAccountName"])}
    for path, leaf in leaves(pod):
        for field, kind in (
            ("claimName", "PersistentVolumeClaim"),
            ("configMapRef.name", "ConfigMap"),
            ("secretKeyRef.name", "Secret"),
        ):
            if path.endswith(field):
                asked.add((kind, leaf))
    assert asked <= there


def test_the_worker_may_make_jobs_and_watch_them_and_nothing_else() -> None:
    (role,) = of_kind("Role")
    assert of_kind("ClusterRole") == of_kind("ClusterRoleBinding") == []
    rights = {(resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert "*" not in {part for right in rights for part in right}
    assert {resource for resource, verb in rights if verb in ("create", "patch", "delete")} == {"jobs"}
    assert not {"secrets", "pods/exec"} & {resource for resource, _ in rights}
    assert of_kind("RoleBinding")[0]["subjects"] == [{"kind": "ServiceAccount", "name": "dpo-worker"}]


def test_a_run_has_no_token_of_the_cluster() -> None:
    accounts = {account["metadata"]["name"]: account for account in of_kind("ServiceAccount")}
    assert accounts["dpo-run"]["automountServiceAccountToken"] is False
    for name in TRAINERS:
        assert PODS[name]["spec"]["serviceAccountName"] == "dpo-run"
        assert PODS[name]["spec"]["automountServiceAccountToken"] is False


def test_no_secret_is_written_down() -> None:
    assert of_kind("Secret") == [], "only references: an ExternalSecret, or `kubectl create secret`"
    (config,) = of_kind("ConfigMap")
    assert [key for key in config["data"] if re.search("KEY|SECRET|TOKEN|PASSWORD", key)] == []


def test_the_folder_is_applied_whole_but_for_the_example() -> None:
    listed = set(document(HERE / "kustomization.yaml")["resources"])
    assert listed == {path.name for path in HERE.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}


@pytest.mark.parametrize("name", TRAINERS)
def test_training_over_many_machines_gets_gpus_shared_memory_and_time_for_a_checkpoint(name: str) -> None:
    pod = PODS[name]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert pod["terminationGracePeriodSeconds"] > SECONDS_TO_STOP
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert container["workingDir"].startswith("/checkouts/")
    assert "command" not in container, "the image's entrypoint stays, so that signals reach the ranks"


def test_as_many_pods_are_made_as_meet() -> None:
    job = JOBSET["spec"]["replicatedJobs"][0]["template"]["spec"]
    (nodes,) = re.findall(r"--nnodes (\d+)", " ".join(PODS["jobset"]["spec"]["containers"][0]["args"]))
    assert job["parallelism"] == job["completions"] == int(nodes)
    elastic = PYTORCHJOB["spec"]["elasticPolicy"]
    replicas = PYTORCHJOB["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"]
    assert elastic["minReplicas"] == elastic["maxReplicas"] == replicas


def test_the_meeting_point_is_the_first_pod_of_the_set() -> None:
    name, job = JOBSET["metadata"]["name"], JOBSET["spec"]["replicatedJobs"][0]["name"]
    (host,) = re.findall(r"--rdzv-endpoint (\S+):", " ".join(PODS["jobset"]["spec"]["containers"][0]["args"]))
    assert host == f"{name}-{job}-0-0.{name}", "SET-JOB-REPLICA-INDEX.SET, as JobSet names pods"
    assert JOBSET["spec"]["network"]["enableDNSHostnames"] is True


@pytest.mark.e2e
def test_the_command_of_the_manifest_brings_two_machines_together(tmp_path: Path) -> None:
    """Two launchers stand for two machines, a module that sums over the ranks for training."""
    (tmp_path / "stand_in.py").write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "total = torch.ones(1)\n"
        "dist.all_reduce(total)\n"
        "print('ranks that met:', int(total), 'of', dist.get_world_size(), flush=True)\n"
        "dist.destroy_process_group()\n"
    )
    *shell, script = PODS["jobset"]["spec"]["containers"][0]["args"]
    (port,) = free_ports(1)
    for told, small in {
        "--nproc-per-node gpu": "--nproc-per-node 1",
        "dpo-train-node-0-0.dpo-train:29400": f"127.0.0.1:{port}",
        "-m tasks.train": "-m stand_in",
        "torchrun": f"{sys.executable} -m torch.distributed.run",
    }.items():
        assert told in script
        script = script.replace(told, small)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen(
            [*shell, script],
            cwd=tmp_path,
            env={**environment, "JOB_COMPLETION_INDEX": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    said = [machine.communicate(timeout=100)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(said)
    assert all("ranks that met: 2 of 2" in text for text in said), "\n".join(said)


@pytest.mark.e2e
@pytest.mark.timeout(900)  # it may be the one that installs the tools
def test_manifests_hold_to_the_schema_of_kubernetes(tmp_path: Path) -> None:
    """The templates of pods within the two custom kinds are held to it as templates; their own kinds are not in it."""
    native = [
        path for path in sorted(HERE.glob("*.yaml")) if path.name not in ("kustomization.yaml", "secret.example.yaml")
    ]
    for name in TRAINERS:
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": PODS[name]}
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(wrapped))
        native.append(path)
    tools.run("kubernetes-validate", "--strict", "-k", KUBERNETES, *native)


@pytest.mark.e2e
def test_kustomize_builds_the_folder() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    built = subprocess.run(["kubectl", "kustomize", str(HERE)], check=True, capture_output=True, text=True).stdout
    assert built.count("\nkind: ") + built.startswith("kind: ") == len(OBJECTS) - 1, "all but the example"
    assert built.count("namespace: dpo-pipeline") >= len(OBJECTS) - 2
