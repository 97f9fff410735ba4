"""What new data costs: `encode` and `reference` again after 1 % new pairs, and memory against the number of pairs.

The demo's model and its pairs, in the stages' own code, on one process. `full` starts from an empty row store,
`new` has a hundredth more pairs, `same` the same pairs again. Memory is the peak of a process that runs the
reference stage over random pairs and a tiny model; token files are mapped, so their pages are part of it.

run as: python -m tests.bench.rows --pairs 4000 --memory 1000 20000
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tasks.core.runtime import RuntimeConfig
from tasks.demo.model.model import DemoModelConfig
from tasks.demo.preferences.preferences import demo_rows
from tasks.ingest import DEMO_SEED
from tasks.rowstore.row_store import RowStore
from tests.bench.measure import peak_bytes
from tests.conftest import ROOT

RESULTS = Path(__file__).parent / "results"


def cost(folder: Path, pairs: int) -> dict[str, dict[str, float]]:
    """Return the seconds of both stages over ``pairs`` pairs, over a hundredth more, and over those again."""
    from tasks import base, reference
    from tasks.dpo.model import adapter_loading  # noqa: F401 imported before the clock starts
    from tasks.dpo.scoring import scorer  # noqa: F401 imported before the clock starts
    from tests.stages import project

    params = folder / "params.yaml"
    runtime = RuntimeConfig(device="cpu")
    lay_params(params, pairs)
    base.run(base.Folders(folder / "base"), base.BaseConfig(), DemoModelConfig(steps=5))
    project.write_no_adapter(folder / "init")
    found = {}
    for name, count in (("full", pairs), ("new", pairs + pairs // 100), ("same", pairs + pairs // 100)):
        lay_params(params, count)
        seconds = {"encode": encode_seconds(folder, params)}
        folders = reference.Folders(folder / "tokens", folder / "base", folder / "init", folder / "reference")
        began = time.perf_counter()
        rows = RowStore.open(folder / "rows", "reference")
        reference.run(folders, reference.ReferenceConfig(), runtime, rows)
        seconds["reference"] = time.perf_counter() - began
        found[name] = {**seconds, "both": sum(seconds.values())}
    return found


def encode_seconds(folder: Path, params: Path) -> float:
    """Read the pairs anew and return the seconds that encoding them takes."""
    from tasks import encode, ingest
    from tasks.core.params import load_section

    shutil.rmtree(folder / "pairs", ignore_errors=True)
    ingest.run(ingest.Folders(folder / "pairs"), load_section(params, "ingest", ingest.IngestConfig))
    config = load_section(params, "encode", encode.EncodeConfig)
    began = time.perf_counter()
    folders = encode.Folders(folder / "pairs", folder / "base", folder / "tokens")
    encode.run(folders, config, RowStore.open(folder / "rows", "encode"))
    return time.perf_counter() - began


def lay_params(path: Path, pairs: int) -> None:
    """Write the checkout's params with so many of the demo's pairs as the data, in a file beside them."""
    yaml = YAML()
    document = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    source = path.with_name("pairs.jsonl")
    source.write_text("".join(json.dumps(row) + "\n" for row in demo_rows(pairs, DEMO_SEED)), encoding="utf-8")
    document["ingest"]["sources"] = [str(source)]
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(document, stream)


def memory(pairs: int, turn: str) -> dict[str, Any]:
    """Run the reference stage over random pairs in this process; return its peak memory in bytes."""
    from tasks import reference
    from tests.dpo import tiny
    from tests.stages import project

    folder = Path(turn)
    if not (folder / "data/tokens").exists():
        project.write_base(folder)
        project.write_no_adapter(folder / "data/adapters/init")
        # more of them are made than are kept in memory at once, in a process that ends before the next begins
        project.write_tokens(folder, {"train": tiny.pairs(pairs), "test": tiny.pairs(7, 99)})
        return {}
    folders = reference.Folders(*(folder / "data" / name for name in ("tokens", "base", "adapters/init", "reference")))
    rows, runtime = RowStore.open(folder / "rows", "reference"), tiny.budget(4096)
    began = time.perf_counter()
    reference.run(folders, reference.ReferenceConfig(), runtime, rows)
    tokens = sum(path.stat().st_size for path in (folder / "data/tokens").glob("*.npy"))
    seconds = time.perf_counter() - began
    return {"peak_bytes": peak_bytes("cpu"), "token_bytes": tokens, "seconds": seconds}


def memory_of(pairs: int) -> dict[str, Any]:
    """Run :func:`memory` in processes of its own: one writes the pairs, one scores, one has them all known."""
    found = []
    with tempfile.TemporaryDirectory() as turn:
        for _ in range(3):
            command = [sys.executable, "-m", "tests.bench.rows", "--measure", str(pairs), turn]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
    return {"pairs": pairs, "scored": found[1], "known": found[2]}


def main() -> None:
    """Measure, print, write `results/rows-cpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4000, help="pairs of the cost, a hundredth more after that")
    parser.add_argument("--memory", type=int, nargs="*", default=[1000, 20_000], help="pairs whose memory is measured")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.measure:
        print(json.dumps(memory(int(told.measure[0]), told.measure[1])))
        return
    with tempfile.TemporaryDirectory() as folder:
        seconds = cost(Path(folder), told.pairs)
    found = {"machine": platform.platform(), "pairs": told.pairs, "seconds": seconds}
    found["new_over_full"] = seconds["new"]["both"] / seconds["full"]["both"]
    found["memory"] = [memory_of(count) for count in told.memory]
    text = json.dumps(found, indent=2)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "rows-cpu.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
