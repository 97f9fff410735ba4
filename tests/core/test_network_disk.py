"""The row store on a network disk: what another machine removes is gone, whatever the disk calls it."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.errors import StorageError
from tasks.core.files import explain_os_error
from tasks.rowstore import segment as segments
from tasks.rowstore.upkeep import compact
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
        compact(opened(self.folder))
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
def test_a_segment_that_vanishes_again_and_again_costs_its_rows_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    filled(tmp_path, range(9))
    reader = opened(tmp_path)
    if moment == "read":
        reader.get(keys_of(np.arange(1)))
    append(reader, np.arange(9, 20))
    gone, real = next(path for path in files(tmp_path) if path.name in reader._open or moment == "opened"), Path.open

    def stale(path: Path, *args: Any, **more: Any) -> Any:
        if path == gone:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(Path, "open", stale)
    rows = reader.get(keys_of(np.arange(25)))
    assert set(np.flatnonzero(rows.mask).tolist()) in (set(range(9)), set(range(9, 20)))


@pytest.mark.parametrize("moment", ["opened", "read"])
def test_a_compaction_whose_segment_another_machine_compacts_away_stops_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
):
    store = filled(tmp_path, range(9), range(9, 20))
    elsewhere = _Elsewhere(tmp_path, monkeypatch, moment)
    with pytest.raises(StorageError, match="was removed meanwhile — let one `compact` run at a time"):
        compact(store)
    assert elsewhere.is_done
    assert len(files(tmp_path)) == 1
    holds(store.get(keys_of(np.arange(25))), np.arange(25), set(range(20)))


def test_a_disk_that_fails_while_a_segment_is_read_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    filled(tmp_path, range(9))
    monkeypatch.setattr(_Torn, "code", errno.EIO)
    _Elsewhere(tmp_path, monkeypatch, "read")
    with pytest.raises(OSError) as fault:
        opened(tmp_path).get(keys_of(np.arange(9)))
    assert explain_os_error(fault.value) is not None
