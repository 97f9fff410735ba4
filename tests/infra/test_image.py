"""The image, its entrypoint, and the pins of all images."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.infra.files import INFRA

DOCKERFILE = (INFRA / "Dockerfile").read_text(encoding="utf-8")
PINNED = r"[a-z0-9./-]+:[\w.-]+@sha256:[0-9a-f]{64}"


def entrypoint(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the image's entrypoint; its secrets lie under /run/secrets, which a copy of it looks for elsewhere."""
    place = variables.pop("place", "/run/secrets")
    script = (INFRA / "entrypoint.sh").read_text(encoding="utf-8").replace("/run/secrets", place)
    environment = {"PATH": os.environ["PATH"], **variables}
    return subprocess.run(["sh", "-c", script, "sh", *words], env=environment, capture_output=True, text=True)


def test_a_variable_named_file_becomes_the_secret_that_the_file_holds(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("it's $(not) run `at` all\n")
    done = entrypoint("sh", "-c", 'printf "%s|%s" "$KEY" "${KEY_FILE-gone}"', place=str(tmp_path), KEY_FILE=str(secret))
    assert done.stdout == "it's $(not) run `at` all|gone"


def test_variables_named_file_that_name_no_secret_are_left_alone(tmp_path: Path) -> None:
    done = entrypoint("env", AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "absent"))
    assert done.returncode == 0
    assert f"AWS_SHARED_CREDENTIALS_FILE={tmp_path / 'absent'}" in done.stdout


def test_files_that_a_library_asks_for_stay_files() -> None:
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": "/run/secrets/aws/credentials",
        "AWS_CONFIG_FILE": "/run/secrets/aws_config",
        "SSL_CERT_FILE": "/run/secrets/ca",
        "SOME_FILE": "/run/secrets/folder/some",
    }
    done = entrypoint("env", **files)
    assert done.returncode == 0, done.stderr
    assert {f"{name}={path}" for name, path in files.items()} <= set(done.stdout.splitlines())


def test_a_secret_that_is_not_mounted_is_named_with_what_to_do() -> None:
    done = entrypoint("true", KEY_FILE="/run/secrets/absent")
    assert done.returncode == 1
    assert "/run/secrets/absent, named by KEY_FILE, cannot be read: mount that secret" in done.stderr


def test_the_command_is_replaced_not_wrapped_so_that_signals_reach_it() -> None:
    assert entrypoint("sh", "-c", "kill -TERM $$").returncode == -15


def test_every_base_image_is_pinned_by_digest() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
    bases = [base.strip("${}") for base in re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)]
    assert bases
    assert [base for base in bases if not re.fullmatch(PINNED, arguments.get(base, base))] == []


def test_the_image_runs_as_one_fixed_user_under_tini() -> None:
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "10001:10001"
    assert re.findall(r"--uid (\d+)", DOCKERFILE) == ["10001"]
    assert 'ENTRYPOINT ["tini", "--", "entrypoint"]' in DOCKERFILE


def test_the_build_sees_the_files_that_it_copies_and_nothing_else() -> None:
    ignore = (INFRA / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules[1:]} == {word for word in copied if not word.startswith("--")}
    assert [name for name in rules[1:] if not (INFRA.parent / name.removeprefix("!")).is_file()] == []


def test_pin_images_finds_every_image_that_is_named_by_digest() -> None:
    listed = subprocess.run([INFRA / "pin-images", "--list"], check=True, capture_output=True, text=True).stdout.split()
    named = [hit for name in ("Dockerfile", "compose.yaml") for hit in re.findall(PINNED, (INFRA / name).read_text())]
    assert set(listed) == set(named)
    assert len(listed) == 3


def test_pin_images_writes_the_digest_that_the_registry_tells(tmp_path: Path) -> None:
    """With a docker that answers like the real one's imagetools: no registry is asked."""
    for name in ("Dockerfile", "compose.yaml", "pin-images"):
        (tmp_path / name).write_bytes((INFRA / name).read_bytes())
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "buildx imagetools inspect" ] && echo sha256:{"a" * 64}\n')
    for script in (docker, tmp_path / "pin-images"):
        script.chmod(0o755)
    path = f"{docker.parent}:{os.environ['PATH']}"
    subprocess.run([tmp_path / "pin-images"], check=True, capture_output=True, env={"PATH": path})
    moved = (tmp_path / "Dockerfile").read_text() + (tmp_path / "compose.yaml").read_text()
    assert set(re.findall("sha256:([0-9a-f]+)", moved)) == {"a" * 64}
    kept = {hit.partition("@")[0] for hit in re.findall(PINNED, moved)}
    assert kept == {
        hit.partition("@")[0] for hit in re.findall(PINNED, DOCKERFILE + (INFRA / "compose.yaml").read_text())
    }
