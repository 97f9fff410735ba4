"""What reading rows costs: rows a second, peak memory against the number of rows, and what 1 % new rows take.

The rows are short: a question of ten words and two replies of five to fifteen; one in a hundred stands twice. Each run
is the stage as a user starts it, in a process of its own, the start of Python included. `full` begins without parts of
an earlier run, `new` has a hundredth more rows in the same file, `same` has no new row. Each is measured on one
core and on all of them. Memory is the peak of the largest process.

run as: python -m tests.bench.ingest --rows 10000 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.bench.measure import machine, versions
from tests.conftest import ROOT

RESULTS = Path(__file__).parent / "results"
WORDS = [word.strip(".,") for word in __doc__.split()]
TWICE = 0.01  # the share of rows that repeat the row before


def append_rows(path: Path, numbers: Iterable[int]) -> None:
    """Add a row for each number to a file of JSON lines."""
    line = ""
    with path.open("a", encoding="utf-8") as stream:
        for number in numbers:
            rng = random.Random(number)
            if not line or rng.random() >= TWICE:
                replies = (" ".join(rng.choices(WORDS, k=rng.randint(5, 15))) for _ in range(2))
                row = {"prompt": f"{' '.join(rng.choices(WORDS, k=9))} {number}?"}
                line = json.dumps(row | dict(zip(("chosen", "rejected"), replies, strict=True))) + "\n"
            stream.write(line)


def run_stage(folder: Path, cores: set[int]) -> dict[str, float]:
    """Run the stage in ``folder`` on these cores; return seconds, and peak memory in bytes."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "tasks.ingest"], cwd=folder, env=env, stderr=subprocess.DEVNULL
    ) as run:
        os.sched_setaffinity(run.pid, cores)
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        raise RuntimeError(f"the stage ended with {run.returncode}; run it in {folder}")
    return {"seconds": time.perf_counter() - began, "peak_bytes": usage.ru_maxrss * 1024}


def measure(rows: int, cores: set[int]) -> dict[str, Any]:
    """Return what a full run takes, one over 1 % more rows, and that again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yaml = YAML()
        params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        params["ingest"]["sources"] = ["rows.jsonl"]
        with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
            yaml.dump(params, stream)

        append_rows(folder / "rows.jsonl", range(rows))
        runs: dict[str, Any] = {"rows": rows, "bytes": (folder / "rows.jsonl").stat().st_size}
        runs["full"] = run_stage(folder, cores)
        append_rows(folder / "rows.jsonl", range(rows, rows + rows // 100))
        runs |= {each: run_stage(folder, cores) for each in ("new", "same")}
        runs["rows_per_second"] = rows / runs["full"]["seconds"]
        return runs


def main() -> None:
    """Measure, print, write `results/ingest-cpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    runs = [{"cores": len(used), **measure(rows, used)} for rows in given.rows for used in ({cores[0]}, set(cores))]
    result = {"machine": machine("cpu"), "versions": versions(), "runs": runs}
    text = json.dumps(result, indent=2)
    print(text)
    (RESULTS / "ingest-cpu.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
