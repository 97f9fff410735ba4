"""What only tells (log, bar, meter, trackers, heap) changes no result: without it every byte is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

# Every name of an observer's module is a stand-in that takes any call, gives itself back and iterates over nothing.
RESULTS = """
import sys
from pathlib import Path

class Nothing:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self
    def __call__(self, *_, **__): return self
    def __iter__(self): return iter(())
    def __enter__(self): return self
    def __exit__(self, *_): return None

out, is_silent = Path(sys.argv[1]), sys.argv[2] == "silent"
if is_silent:
    for room in ("tasks/telemetry", "tasks/dpo/telemetry"):
        for path in Path(sys.argv[3], room).glob("[!_]*.py"):
            sys.modules[f"{room.replace('/', '.')}.{path.stem}"] = Nothing()

import json
from tasks.core.files import sha256_file
from tasks.dpo.reference.reference_pass import ReferencePass
from tasks.dpo.reference.row_identity import ReferenceIdentity
from tasks.dpo.reference.row_recall import RowRecall
from tasks.rowstore.row_store import RowStore
from tests.dpo import tiny

pairs, runtime = tiny.pairs(13), tiny.budget(64, checkpoint_every_s=1e-9, log_every_steps=2)
rows = RowRecall(RowStore.open(out / "rows", "reference"), ReferenceIdentity("b" * 64, None, "float32"))
logps = [block.tobytes().hex() for block in ReferencePass(tiny.base, runtime, rows).blocks(pairs)]
config = tiny.config(pairs_per_step=4, epochs=2, learning_rate=5e-3, lora=tiny.LORA)
result, model = tiny.run(pairs, config, runtime, checkpoints=out / "checkpoints")
tiny.adapter_bytes(model, out / "adapter")
files = {path.relative_to(out).as_posix(): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()}
print(json.dumps({"logps": logps, "steps": result.steps, "evals": result.evals, "files": files}))
print(json.dumps(sorted(result.speed)))
"""


def results(out: Path, mode: str) -> tuple[dict[str, object], list[str]]:
    """Score and train in a process of its own; return what came out of it, and the speeds that it tells."""
    command = [sys.executable, "-c", RESULTS, str(out), mode, str(ROOT)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ("reference:" in done.stderr) == (mode == "plain"), "the bar is shown, or its stand-in shows nothing"
    found, speed = map(json.loads, done.stdout.splitlines())
    return found, speed


def test_reference_and_training_have_the_same_bytes_without_observers(tmp_path: Path) -> None:
    plain, speed = results(tmp_path / "plain", "plain")
    silent, no_speed = results(tmp_path / "silent", "silent")
    assert {"checkpoints", "adapter", "rows"} == {name.split("/")[0] for name in plain["files"]}  # type: ignore[attr-defined]
    assert plain == silent
    assert "pairs_per_s" in speed
    assert no_speed == []
