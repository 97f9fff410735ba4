"""The row store on a network disk: what another machine removes is gone, whatever the disk calls it."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.files import explain_os_error
from tasks.rowstore import row_store as rowstore
from tasks.rowstore import segment as segments
from tests.core.row_writer import append, files, filled, holds, keys_of, opened


class _Torn(io.FileIO):
    """A file whose bytes cannot be read any more: on a network disk another machine has removed it."""

    code = errno.ESTALE

    def readinto(self, buffer: Any) -> int:
        raise OSError(self.code, os.strerror(self.code))

    def readall(self) -> bytes:
        raise OSError(self.code, os.strerror(self.code))


class _Elsewhere:
    """Another machine, which compacts a store at the very moment that a segment is opened or read here."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
        self.folder, self.moment, self.is_done = folder, moment, False
        self._real = Path.open
        monkeypatch.setattr(Path, "open", lambda path, *args, **more: self._open(path, *args, **more))

    def _open(self, path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if self.is_done or path.suffix != segments.SUFFIX or mode != "rb":
            return self._real(path, mode, *args, **more)
        self.is_done = True
        torn = io.BufferedReader(_Torn(str(path)))
        other = opened(self.folder)
        other._compact(other._small())
        if self.moment == "opened":
            torn.close()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return torn


@pytest.mark.parametrize("is_known", [False, True], ids=["new to the reader", "known to the reader"])
@pytest.mark.parametrize("moment", ["opened", "read"])
def test_a_segment_that_another_machine_compacts_away_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, is_known: bool
):
    filled(tmp_path, range(9), range(9, 20))
    reader = opened(tmp_path)
    if is_known:
        reader.get(keys_of(np.arange(1)))
    elsewhere = _Elsewhere(tmp_path, monkeypatch, moment)
    holds(reader.get(keys_of(np.arange(25))), np.arange(25), set(range(20)))
    assert elsewhere.is_done
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("moment", ["opened", "read"])
def test_a_compaction_whose_segment_another_machine_compacts_away_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    store = filled(tmp_path, range(9), range(9, 20))
    store.get(keys_of(np.arange(20)))
    elsewhere = _Elsewhere(tmp_path, monkeypatch, moment)
    store._compact(store._small())
    assert elsewhere.is_done
    assert len(files(tmp_path)) == 1
    holds(store.get(keys_of(np.arange(25))), np.arange(25), set(range(20)))


@pytest.mark.parametrize("what", ["stat", "lstat", "unlink"])
def test_a_file_that_another_machine_removed_first_is_no_fault_when_it_is_tidied_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    monkeypatch.setattr(rowstore, "MOST_SEGMENTS", 1)
    store = filled(tmp_path, range(9))
    stale = segments.new_draft(tmp_path / "reference")
    stale.write_bytes(b"torn")
    os.utime(stale, (time.time() - 90_000,) * 2)
    gone, real = {files(tmp_path)[1], stale}, getattr(Path, what)
    met = []

    def removed_elsewhere(path: Path, *args: Any, **more: Any) -> Any:
        if path in gone and sys._getframe(1).f_globals["__name__"].startswith("tasks."):
            met.append(path)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(Path, what, removed_elsewhere)
    append(store, np.arange(9, 20))
    assert met
    holds(store.get(keys_of(np.arange(25))), np.arange(25), set(range(20)))


def test_a_disk_that_fails_while_a_segment_is_read_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    filled(tmp_path, range(9))
    monkeypatch.setattr(_Torn, "code", errno.EIO)
    _Elsewhere(tmp_path, monkeypatch, "read")
    with pytest.raises(OSError) as fault:
        opened(tmp_path).get(keys_of(np.arange(9)))
    assert explain_os_error(fault.value) is not None
