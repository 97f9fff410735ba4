"""An event says what happened to a version in the registry, and nothing of what no registry holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import events

ENTRY = {"name": "demo", "version": "a" * 64, "serial": 2, "promoted": True, "registered": True}


@pytest.mark.parametrize(("change", "expected"), [({}, ["dpo.promoted"]), ({"registered": False, "serial": None}, [])])
def test_an_experiment_that_was_judged_alone_is_no_release(
    change: dict[str, Any], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(events, "emit_event", lambda name, **_: sent.append(name))
    folder = tmp_path / "results/register"
    folder.mkdir(parents=True)
    (folder / "registration.json").write_text(json.dumps(ENTRY | change))
    events.emit_release(tmp_path)
    assert sent == expected
