"""A second real S3 server on loopback: OpenStack Swift with its s3api, one process for each of its four servers.

Swift is installed from PyPI into an environment of its own, for its packages are no business of the project's.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.s3_server import Server

KEYS = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
BACKENDS = ("account", "container", "object")
SWIFT_CONF = """[swift-hash]
swift_hash_path_suffix = tests
swift_hash_path_prefix = tests
[storage-policy:0]
name = default
default = yes
"""
BACKEND = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {root}
devices = {root}/disks
mount_check = false
log_name = {name}
log_address = /dev/null
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
[{name}-replicator]
[{name}-updater]
[{name}-auditor]
"""
PROXY = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {root}
log_address = /dev/null
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth slo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
"""


def installed() -> Path:
    """Return the folder of Swift's programs, after installing it once; skip where that cannot be done."""
    folder = ROOT / ".venv-swift"
    done = folder / ".installed"
    with (ROOT / ".venv-swift.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(folder / "bin/pip"), "install", "--quiet", "-r", str(ROOT / "tests/swift.txt")],
        ):
            if done.is_file():
                break
            if subprocess.run(command, capture_output=True, timeout=300, check=False).returncode:
                pytest.skip("OpenStack Swift cannot be installed from PyPI here (tests/swift.txt)")
        done.touch()
    return folder / "bin"


@contextlib.contextmanager
def running(root: Path) -> Iterator[str]:
    """Run the four servers; give the address of their S3."""
    programs, ports = installed(), free_ports(4)
    (root / "disks" / "disk").mkdir(parents=True)
    (root / "swift.conf").write_text(SWIFT_CONF)
    for name, port in zip(BACKENDS, ports, strict=False):
        (root / f"{name}.conf").write_text(BACKEND.format(root=root, name=name, port=port))
        ring = [str(programs / "swift-ring-builder"), str(root / f"{name}.builder")]
        device = f"r1z1-127.0.0.1:{port}/disk"
        for words in (["create", "4", "1", "0"], ["add", device, "1"], ["rebalance"]):
            subprocess.run([*ring, *words], check=True, capture_output=True, timeout=60)
    (root / "proxy.conf").write_text(PROXY.format(root=root, port=ports[3]))
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((root / "servers.log").open("wb"))
        for name in (*BACKENDS, "proxy"):
            command = [str(programs / f"swift-{name}-server"), str(root / f"{name}.conf")]
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
            stack.callback(process.kill)
        for port in ports:
            _wait(port, root / "servers.log")
        yield f"http://127.0.0.1:{ports[3]}"


def emptied(url: str, monkeypatch: pytest.MonkeyPatch, bucket: str) -> Server:
    """Lead the environment of this process and its children to a bucket, made if need be, with nothing in it."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": url}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    found = Server(url)
    with contextlib.suppress(found.client.exceptions.BucketAlreadyOwnedByYou):
        found.client.create_bucket(Bucket=bucket)
    for name in found.names(bucket):
        found.client.delete_object(Bucket=bucket, Key=name)
    return found


def _wait(port: int, log: Path) -> None:
    """Wait until a server listens."""
    for _ in range(120):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
