"""What encoding costs: rows a second beside TRL's tokenization, and what 1 % new rows and the same rows again take.

The rows are conversations with one question; the texts are sentences of Python's own documentation with made-up words
among them, so that new words never cease. Each repeat runs the arms one after the other, so a slow moment of the
machine meets them all; the medians are compared. The time of `encode` is the whole stage's, the loading of the
tokenizer included, that of libraries not; TRL's is the time of its tokenization alone.

run as: python -m tests.bench.encode --tokenizer FOLDER [--pairs 10000] [--known 200000] [--peers FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from tests.bench.campaign import PEERS
from tests.bench.measure import machine, peak_bytes, versions
from tests.conftest import ROOT

RESULTS = Path(__file__).parent / "results"
REPEATS = 3
RARE = 0.02  # the share of words that are made up, each once


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Yield rows with questions of 60 to 200 words and replies of 60 to 150."""
    rng = random.Random(0)
    prose = " ".join(text for name, text in sorted(topics.items()))
    sentences = [sentence.split(" ") for sentence in re.split(r"(?<=[.:?!])\s+", re.sub(r" +", " ", prose))]

    def text(fewest: int, most: int) -> str:
        words: list[str] = []
        length = rng.randint(fewest, most)
        while len(words) < length:
            words += rng.choice(sentences)
        return " ".join(f"{rng.getrandbits(32):x}" if rng.random() < RARE else word for word in words[:length])

    for _ in range(count):
        sides = {name: [{"role": "assistant", "content": text(60, 150)}] for name in ("chosen", "rejected")}
        yield {"prompt": [{"role": "user", "content": text(60, 200)}], **sides}


def write_rows(path: Path, count: int) -> Path:
    """Write so many rows as JSON lines."""
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows(count))
    return path


def ingest(source: Path, pairs: Path) -> dict[str, float]:
    """Make pairs of the rows, in one process and with the parts of an earlier run; return the seconds of both kinds."""
    from tasks import ingest as stage

    began, cpu = time.perf_counter(), time.process_time()
    stage.run(stage.Folders(pairs), stage.IngestConfig((str(source),)), parts=pairs.with_name("parts"))
    return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}


def encode(folder: Path, pairs: str) -> dict[str, Any]:
    """Encode in this process; return the seconds, those of the processor, and the peak memory of the process."""
    from tasks import encode as stage
    from tasks.core.base_model import BaseModel
    from tasks.rowstore.row_store import RowStore

    BaseModel.open(folder / "base").load_tokenizer()  # imports what it takes before the clock starts
    folders = stage.Folders(folder / pairs, folder / "base", folder / "tokens")
    began, cpu = time.perf_counter(), time.process_time()
    stage.run(folders, stage.EncodeConfig(), RowStore.open(folder / "rows", "encode"))
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return {**seconds, "peak_bytes": peak_bytes("cpu")}


def in_process(python: str | Path, module: str, *words: str) -> dict[str, Any]:
    """Return what a module prints, run in a process of its own."""
    command = [str(python), "-m", f"tests.bench.{module}", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def compare(folder: Path, pairs: int, tokenizer: Path, peers: Path) -> dict[str, Any]:
    """Return the seconds of every arm in each repeat, the median rows a second, and how often ours is TRL's.

    The processor's seconds are known of arms of one process.
    """
    source = write_rows(folder / "rows.jsonl", pairs)
    ingest(source, folder / "pairs")
    python = peers / "bin/python" if peers.is_dir() else peers
    processes = len(os.sched_getaffinity(0))
    arms: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": [], f"trl_{processes}_processes": []}

    for _ in range(REPEATS):
        shutil.rmtree(folder / "rows", ignore_errors=True)
        arms["ours"].append(in_process(sys.executable, "encode", "--once", str(folder), "pairs"))
        arms["trl"].append(in_process(python, "arm_tokenise", str(source), str(tokenizer), "1"))
        arms[list(arms)[2]].append(in_process(python, "arm_tokenise", str(source), str(tokenizer), str(processes)))

    rates = {name: pairs / statistics.median(run["seconds"] for run in runs) for name, runs in arms.items()}
    cpu = {name: pairs / statistics.median(run["cpu_seconds"] for run in arms[name]) for name in ("ours", "trl")}
    return {
        "pairs": pairs,
        "arms": arms,
        "rows_per_second": rates,
        "rows_per_cpu_second": cpu,
        "ours_over": {name: rates["ours"] / rate for name, rate in rates.items() if name != "ours"},
        "ours_over_trl_per_cpu_second": cpu["ours"] / cpu["trl"],
    }


def known(folder: Path, pairs: int) -> dict[str, Any]:
    """Return what full, +1 % and the same rows cost, and what lies on disk."""
    runs: dict[str, Any] = {}
    shutil.rmtree(folder / "rows", ignore_errors=True)
    for name, count in (("full", pairs), ("new", pairs + pairs // 100), ("same", pairs + pairs // 100)):
        ingested = ingest(write_rows(folder / "rows.jsonl", count), folder / "pairs")
        runs[name] = {"ingest": ingested, **in_process(sys.executable, "encode", "--once", str(folder), "pairs")}
    units = ("seconds", "cpu_seconds")
    both = {name: {unit: run[unit] + run["ingest"][unit] for unit in units} for name, run in runs.items()}
    shares = {name: {unit: both[name][unit] / both["full"][unit] for unit in units} for name in ("new", "same")}
    sizes = {path.name: path.stat().st_size for path in sorted((folder / "tokens").iterdir())}
    stored, blocks = (
        sum(path.stat().st_size for path in (folder / "rows" / name).iterdir()) for name in ("encode", "blocks")
    )
    more = {"bytes": sizes, "row_store_bytes": stored, "block_bytes": blocks}
    return {"pairs": pairs, **runs, "ingest_and_encode_of_full": shares, **more}


def main() -> None:
    """Measure, print, write `results/encode-cpu.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="a folder with a tokenizer and its chat template")
    parser.add_argument("--pairs", type=int, default=10_000, help="rows of the comparison with TRL")
    parser.add_argument("--known", type=int, default=200_000, help="rows of which 1 % more are encoded")
    parser.add_argument("--peers", type=Path, default=PEERS, help="folder of the peers' environment, or a Python")
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(encode(Path(given.once[0]), given.once[1])))
        return

    from tests.pairs.samples import pinned_base

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pinned_base(folder / "base", given.tokenizer)
        result = {"machine": machine("cpu"), "versions": versions(), "tokenizer": given.tokenizer.name}
        result["trl"] = compare(folder, given.pairs, given.tokenizer, given.peers)
        result["known"] = known(folder, given.known)
    text = json.dumps(result, indent=2)
    print(text)
    (RESULTS / "encode-cpu.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
