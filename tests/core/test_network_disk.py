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
from tasks.upkeep.compaction import compact
from tests.core.row_writer import filled, holds, keys_of, opened


class _Torn(io.FileIO):
    """A file whose bytes cannot be read any more: on a network disk another machine has removed it."""

    code = errno.ESTALE

    def readinto(self, buffer: Any) -> int:
        raise OSError(self.code, os.strerror(self.code))

    def readall(self) -> bytes:
        raise OSError(self.code, os.strerror(self.code))


def take_away(gone: Path, monkeypatch: pytest.MonkeyPatch, moment: str, code: int) -> None:
    """Let the file ``gone`` fail with ``code`` when it is opened, or when it is read."""
    real = Path.open
    monkeypatch.setattr(_Torn, "code", code)

    def opened_elsewhere(path: Path, *args: Any, **more: Any) -> Any:
        if path != gone:
            return real(path, *args, **more)
        if moment == "opened":
            raise OSError(code, os.strerror(code), str(path))
        return io.BufferedReader(_Torn(str(path)))

    monkeypatch.setattr(Path, "open", opened_elsewhere)


@pytest.mark.parametrize("is_known", [False, True], ids=["new to the reader", "known to the reader"])
@pytest.mark.parametrize(
    ("moment", "code"), [("opened", errno.ENOENT), ("opened", errno.ESTALE), ("read", errno.ESTALE)]
)
def test_a_segment_that_is_removed_meanwhile_costs_its_rows_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, code: int, is_known: bool
):
    filled(tmp_path / "a", range(9))
    (name,) = (path.name for path in (tmp_path / "a/reference").iterdir())
    filled(tmp_path, range(9), range(9, 20))
    reader, every = opened(tmp_path), np.arange(25)
    if is_known:
        holds(reader.get(keys_of(every)), every, set(range(20)))
    take_away(tmp_path / "reference" / name, monkeypatch, moment, code)
    holds(reader.get(keys_of(every)), every, set(range(9, 20)))
    monkeypatch.undo()
    holds(reader.get(keys_of(every)), every, set(range(20)))


def test_a_compaction_whose_segment_another_one_merges_stops_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = filled(tmp_path, range(9), range(9, 20))
    real, done = Path.open, []

    def opened_late(path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if path.suffix == segments.SUFFIX and mode == "rb" and not done:
            done.append(path)
            compact(opened(tmp_path))
        return real(path, mode, *args, **more)

    monkeypatch.setattr(Path, "open", opened_late)
    with pytest.raises(StorageError, match="was removed meanwhile — let one `compact` run at a time"):
        compact(store)
    holds(store.get(keys_of(np.arange(25))), np.arange(25), set(range(20)))


@pytest.mark.parametrize(("code", "words"), [(errno.EIO, "input/output fault"), (errno.EACCES, "permission denied")])
def test_a_disk_that_fails_while_a_segment_is_read_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str
):
    filled(tmp_path, range(9))
    (path,) = (tmp_path / "reference").iterdir()
    take_away(path, monkeypatch, "read", code)
    with pytest.raises(OSError) as fault:
        opened(tmp_path).get(keys_of(np.arange(9)))
    expected = explain_os_error(fault.value)
    assert expected is not None
    assert words in expected.what
