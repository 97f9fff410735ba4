"""The door of a stage: one line for a user's mistake, a traceback for ours, a receipt for both."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core import errors, ranks
from tasks.launch.stage import door
from tasks.telemetry import log
from tasks.telemetry.receipts import note
from tests.conftest import ROOT
from tests.small_disk import fill, small_disk


@dataclasses.dataclass(frozen=True)
class Owner:
    size: int = 1


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logging_put_back: None) -> None:
    (tmp_path / "params.yaml").write_text("ingest: {size: 3}\n")
    monkeypatch.chdir(tmp_path)


def receipt() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs/receipts/ingest.json").read_text())
    return found


def fail_with(error: BaseException) -> None:
    with door("ingest", Owner):
        raise error


def test_a_good_run_gets_its_section_and_leaves_a_receipt():
    with door("ingest", Owner) as config:
        assert config == Owner(3)
        note(rows=4)
        note(rejected=1)
    found = receipt()
    assert found["status"] == "ok"
    assert found["error"] is None
    assert found["notes"] == {"rows": 4, "rejected": 1}
    assert {"started", "ended", "seconds", "machine", "versions", "peak_memory_bytes", "ranks", "params"} <= set(found)
    assert found["seconds"] >= 0
    assert found["versions"]["python"].startswith(f"{sys.version_info[0]}.")


@pytest.mark.parametrize("folder", ["models", "data", "results", "data/adapters"])
def test_outputs_behind_a_link_are_refused_before_the_stage_runs_and_a_folder_in_its_place_helps(folder: str) -> None:
    Path("disk").mkdir()
    Path(folder).parent.mkdir(exist_ok=True)
    Path(folder).symlink_to(Path("disk").resolve())
    with pytest.raises(SystemExit), door("ingest", Owner):
        pytest.fail("the stage ran")
    assert receipt()["status"] == "config"
    assert f"`{folder}` is a link" in receipt()["error"]
    Path(folder).unlink()
    Path(folder).mkdir()
    with door("ingest", Owner):
        pass
    assert receipt()["status"] == "ok"


EXPECTED = {
    errors.ConfigError: ("config", 1),
    errors.DataError: ("data", 1),
    errors.ArtifactError: ("artifact", 1),
    errors.StorageError: ("storage", 1),
    errors.NetworkError: ("network", 1),
    errors.RegistryError: ("registry", 1),
    errors.GateRefused: ("gate", 3),
    errors.Busy: ("busy", 75),
    errors.Preempted: ("preempted", 75),
}


def test_every_class_of_the_error_tree_is_expected_here():
    assert set(EXPECTED) == set(errors.PipelineError.__subclasses__())


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_an_expected_error_is_one_line_and_its_exit_code(
    kind: type[errors.PipelineError], capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as left:
        fail_with(kind("the thing\n is wrong", "fix  it"))
    status, code = EXPECTED[kind]
    assert left.value.code == code
    assert capsys.readouterr().err == "[ingest] error: the thing is wrong — fix it\n"
    assert receipt()["status"] == status
    assert receipt()["error"] == f"{kind.__name__}: the thing is wrong — fix it"


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        fail_with(OSError(errno.ENOSPC, "No space left on device", "data/pairs/x"))
    assert left.value.code == 1
    line = "[ingest] error: writing or reading data/pairs/x: the disk is full — free some space there and run again\n"
    assert capsys.readouterr().err == line
    assert receipt()["status"] == "storage"


def test_a_file_in_place_of_a_folder_is_one_line(capsys: pytest.CaptureFixture[str]):
    Path("rows").touch()
    with pytest.raises(NotADirectoryError) as told:
        Path("rows/ingest").mkdir(parents=True)
    with pytest.raises(SystemExit):
        fail_with(told.value)
    what = "[ingest] error: writing or reading rows/ingest: a file stands where a folder belongs — name another folder"
    assert capsys.readouterr().err.startswith(what)


@pytest.mark.parametrize("error", [ValueError("ours"), FileNotFoundError(errno.ENOENT, "gone", "x")])
def test_a_bug_keeps_its_traceback_and_is_recorded_as_one(error: Exception):
    with pytest.raises(type(error)):
        fail_with(error)
    assert receipt()["status"] == "bug"
    assert type(error).__name__ in receipt()["error"]


def test_an_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        fail_with(KeyboardInterrupt())
    assert left.value.code == 130
    assert "interrupted" in capsys.readouterr().err
    assert receipt()["status"] == "interrupted"


def test_a_params_mistake_is_told_before_anything_runs(capsys: pytest.CaptureFixture[str]):
    Path("params.yaml").write_text("ingest: {sise: 3}\n")
    with pytest.raises(SystemExit) as left, door("ingest", Owner):
        raise AssertionError("the body must not run")
    assert left.value.code == 1
    assert capsys.readouterr().err == "[ingest] error: unknown key `ingest.sise` — did you mean `size`?\n"
    assert receipt()["status"] == "config"


def test_the_receipt_of_a_second_run_holds_nothing_of_the_first():
    with door("ingest", Owner):
        note(rows=4)
    with door("ingest", Owner):
        pass
    assert "notes" not in receipt()


def test_a_disk_too_full_for_the_receipt_does_not_hide_the_error(capsys: pytest.CaptureFixture[str]):
    with small_disk(Path("runs"), 8) as disk:
        fill(disk)
        with pytest.raises(SystemExit):
            fail_with(errors.DataError("the rows are wrong", "fix them"))
    assert "the rows are wrong — fix them" in capsys.readouterr().err


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, of: int = 2) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(of))


def receipts() -> list[str]:
    return sorted(path.name for path in Path("runs/receipts").iterdir())


def test_another_rank_tells_its_error_with_its_number_and_leaves_a_receipt_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    as_rank(monkeypatch, 1)
    with pytest.raises(SystemExit) as left:
        fail_with(errors.NetworkError("no answer", "run again"))
    assert left.value.code == 1
    assert capsys.readouterr().err == "[ingest] error: rank 1: no answer — run again\n"
    assert receipts() == ["ingest.rank1.json"]
    found = json.loads(Path("runs/receipts/ingest.rank1.json").read_text())
    told = {"stage": "ingest", "status": "network", "rank": 1, "ranks": 2}
    assert told.items() <= found.items()
    assert found["error"] == "NetworkError: no answer — run again"
    assert {"started", "ended", "seconds", "machine", "versions", "peak_memory_bytes"} <= set(found)
    assert (ranks.rank(), ranks.world_size(), ranks.is_main(), ranks.is_launched()) == (1, 2, False, True)


def test_another_rank_that_ends_well_is_silent_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    as_rank(monkeypatch, 1)
    with door("ingest", Owner):
        log.get_logger("tasks.pairs").info("not for everyone")
    assert capsys.readouterr().err == ""
    assert not Path("runs").exists()


def test_a_warning_of_another_rank_is_told_with_its_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    as_rank(monkeypatch, 3, of=4)
    with door("ingest", Owner):
        log.get_logger("tasks.pairs").warning("memory ran out at %d tokens", 512)
    assert capsys.readouterr().err == "[ingest] rank 3: memory ran out at 512 tokens\n"


def test_a_bug_on_another_rank_is_recorded_too(monkeypatch: pytest.MonkeyPatch):
    as_rank(monkeypatch, 1)
    with pytest.raises(ValueError, match="ours"):
        fail_with(ValueError("ours"))
    assert json.loads(Path("runs/receipts/ingest.rank1.json").read_text())["status"] == "bug"


def test_a_stage_begins_without_the_receipts_that_earlier_ranks_left(monkeypatch: pytest.MonkeyPatch):
    folder = Path("runs/receipts")
    folder.mkdir(parents=True)
    for name in ("ingest.rank1.json", "ingest.rank2.json", "ingest.rank12.json", "encode.rank1.json"):
        (folder / name).write_text("{}")
    as_rank(monkeypatch, 2, of=3)
    with door("ingest", Owner):
        assert receipts() == ["encode.rank1.json", "ingest.rank1.json", "ingest.rank12.json"], "its own"
    as_rank(monkeypatch, 0)
    with door("ingest", Owner):  # rank 1 may have failed already
        assert receipts() == ["encode.rank1.json", "ingest.rank1.json"], "rank 0: of ranks that are no more"
    as_rank(monkeypatch, 0, of=1)
    with door("ingest", Owner):
        assert receipts() == ["encode.rank1.json", "ingest.json"]


def test_a_rank_leaves_it_to_its_launcher_to_tell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    as_rank(monkeypatch, 1)
    monkeypatch.setenv(ranks.LAUNCHER, str(os.getppid()))
    with pytest.raises(SystemExit):
        fail_with(errors.DataError("the rows are wrong"))
    assert capsys.readouterr().err == ""
    assert receipts() == ["ingest.rank1.json"]
    monkeypatch.setenv(ranks.LAUNCHER, "1" if os.getppid() != 1 else "2")  # that one is gone, or not its own
    with pytest.raises(SystemExit):
        fail_with(errors.DataError("the rows are wrong"))
    assert capsys.readouterr().err == "[ingest] error: rank 1: the rows are wrong\n"


def test_a_rank_that_can_leave_no_receipt_tells_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    as_rank(monkeypatch, 1)
    monkeypatch.setenv(ranks.LAUNCHER, str(os.getppid()))
    with small_disk(Path("runs"), 8) as disk:
        fill(disk)
        with pytest.raises(SystemExit):
            fail_with(errors.DataError("the rows are wrong"))
    assert capsys.readouterr().err == "[ingest] error: rank 1: the rows are wrong\n"


def test_without_a_launcher_this_is_the_only_rank(monkeypatch: pytest.MonkeyPatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.rank(), ranks.world_size(), ranks.is_main(), ranks.is_launched()) == (0, 1, True, False)


def test_a_bar_is_shown_and_only_updated(capsys: pytest.CaptureFixture[str]):
    with log.bar("counting", total=3) as bar:
        bar.update(3)
    assert "counting" in capsys.readouterr().err


def test_the_door_alone_loads_no_torch():
    code = "import sys, tasks.launch.stage, tasks.core.base_model; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
