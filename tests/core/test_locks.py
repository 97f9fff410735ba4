"""Locks of the kernel: one living writer of a folder, one run of a stage; a killed one is in nobody's way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.core import files
from tasks.core.errors import Busy, StorageError
from tasks.core.locks import hold_lock
from tests.conftest import ROOT

WRITER = """
import sys
from pathlib import Path
from tasks.core.files import atomic_folder
with atomic_folder(Path(sys.argv[1])) as draft:
    (draft / "a").write_text("first")
    print("ready", flush=True)
    sys.stdin.readline()
    (draft / "b").write_text("first")
"""
STAGE = """
import sys
from pathlib import Path
from tasks.launch.stage import door
with door("ingest", lambda path: None):
    print("ready", flush=True)
    sys.stdin.readline()
"""
HELD_BY = r"by process {pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \+\d{{4}} — wait until that process ends"


@contextlib.contextmanager
def living(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has come as far as `ready`, and goes on with the next line that it is sent."""
    command, env = [sys.executable, "-c", code, str(folder / "out")], {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=folder, env=env, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_a_second_writer_is_refused_and_the_first_ones_draft_is_left_whole(tmp_path: Path):
    with living(WRITER, tmp_path) as first:
        with pytest.raises(Busy, match=HELD_BY.format(pid=first.pid)), files.atomic_folder(tmp_path / "out"):
            pytest.fail("both write")
        assert first.communicate("go on\n")[1] == ""
    assert set(files.verify_manifest(tmp_path / "out", "encode")["files"]) == {"a", "b"}
    with files.atomic_folder(tmp_path / "out"):
        pass  # the advice helps
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_writer_holds_nothing(tmp_path: Path):
    with living(WRITER, tmp_path) as first:
        first.kill()
        first.wait()
    assert {path.name for path in tmp_path.iterdir()} == {".out.lock", f".out.{first.pid}.draft"}
    with files.atomic_folder(tmp_path / "out") as draft:
        (draft / "a").write_text("second")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_second_run_of_a_stage_is_one_line_that_names_the_first_and_a_status_to_retry(tmp_path: Path):
    with living(STAGE, tmp_path) as first:
        command, env = [sys.executable, "-c", STAGE], {**os.environ, "PYTHONPATH": str(ROOT)}
        second = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert first.communicate("go on\n")[1] == ""
    assert second.returncode == 75
    line = rf"\[ingest\] error: stage `ingest` is running already: {HELD_BY.format(pid=first.pid)}.*\n"
    assert re.fullmatch(line, second.stderr)
    assert first.returncode == 0
    assert files.read_json(tmp_path / "runs/receipts/ingest.json")["status"] == "ok"
    assert not list((tmp_path / "runs/locks").iterdir())


def _write_again(draft: Path) -> None:
    files.write_text(draft / "metrics.json", "{}")


def _make_again(draft: Path) -> None:
    (draft / "curves").mkdir(parents=True)


def _open_there(draft: Path) -> None:
    (draft / "b").write_text("")


@pytest.mark.parametrize("work", [_write_again, _make_again, _open_there])
def test_a_draft_that_is_gone_is_not_made_anew(tmp_path: Path, work: Callable[[Path], None]):
    def write() -> None:
        with files.atomic_folder(tmp_path / "out") as draft:
            (draft / "a").write_text("half")
            shutil.rmtree(draft)
            work(draft)

    with pytest.raises(StorageError, match=r"\.out\.\d+\.draft was removed while it was written — let nothing remove"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_many_holders_in_turn_never_hold_a_lock_at_once(tmp_path: Path):
    code = """
import os, sys
from pathlib import Path
from tasks.core.errors import Busy
from tasks.core.locks import hold_lock
turns = 0
while turns < 200:
    try:
        with hold_lock(Path("lock"), "it"):
            os.close(os.open("inside", os.O_CREAT | os.O_EXCL))
            os.unlink("inside")
            turns += 1
    except Busy:
        pass
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    rivals = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env) for _ in range(3)]
    assert [rival.wait(60) for rival in rivals] == [0, 0, 0]


def test_a_file_system_without_locks_is_said_and_no_draft_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def no_locks(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".out.1.draft").mkdir()
    with files.atomic_folder(tmp_path / "out"), hold_lock(tmp_path / "lock", "it") as is_held:
        assert not is_held
    assert (tmp_path / ".out.1.draft").is_dir()
    assert f"{tmp_path} is on a file system without locks" in caplog.text
