"""TRL's tokenization of a file of rows, run by the Python of the peers' environment: the trainer's own code.

`DPOTrainer._prepare_dataset` is called without a trainer around it, which would need a model; it reads the data set
from Arrow files on disk and leaves its ids in others.

run as: PYTHON -m tests.bench.arm_tokenise ROWS.jsonl TOKENIZER PROCESSES
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
from transformers import AutoTokenizer
from trl import DPOTrainer


def seconds(rows: Path, tokenizer: Any, processes: int) -> dict[str, float]:
    """Return the seconds of tokenising the rows in so many processes, and this process's own of the processor."""
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_list(list(map(json.loads, rows.open(encoding="utf-8")))).save_to_disk(folder)
        dataset = datasets.load_from_disk(folder)
        arguments = SimpleNamespace(dataset_num_proc=processes if processes > 1 else None, max_length=None)
        began, cpu = time.perf_counter(), time.process_time()
        DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), dataset, tokenizer, arguments, "train")
        return {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}


def main() -> None:
    """Print the seconds as JSON."""
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
    print(json.dumps(seconds(Path(sys.argv[1]), tokenizer, int(sys.argv[3]))))


if __name__ == "__main__":
    main()
