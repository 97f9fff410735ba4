"""A PostgreSQL server on loopback, for a Prefect server that keeps its runs there."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_ports


@contextlib.contextmanager
def running() -> Iterator[str]:
    """Run a server with an empty database; give the address by which Prefect connects to it."""
    programs = {name: found for name in ("initdb", "pg_ctl") if (found := _find(name))}
    if len(programs) < 2:
        pytest.skip("PostgreSQL's programs are not installed here (Debian: postgresql)")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as folder:
        user = _owner(folder)
        _run([programs["initdb"], "--pgdata", f"{folder}/data", "--auth", "trust", "--username", "prefect"], user)
        control = [programs["pg_ctl"], "--pgdata", f"{folder}/data", "--wait"]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        _run([*control, "--log", f"{folder}/log", "--options", options, "start"], user)
        try:
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "--mode", "immediate", "stop"], user)


def _owner(folder: str) -> str | None:
    """Return the user that the server runs as: it refuses to run as root, and another one has to own its folder."""
    if os.geteuid():
        return None
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no user `postgres`")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return user.pw_name


def _find(name: str) -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


def _run(command: list[str], user: str | None) -> None:
    # its server keeps what it inherits open: a pipe would never end
    subprocess.run(command, check=True, user=user, cwd="/", stdout=subprocess.DEVNULL, timeout=120)
