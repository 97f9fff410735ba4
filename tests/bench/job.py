"""One arm of a benchmark: what it is told, what it tells, and the process of its own that it runs in.

Runs in the peers' environment too: it needs numpy and the standard library only, beside `shapes`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.shapes import SHAPES, Pairs

ROOT = Path(__file__).resolve().parents[2]
SAID = 3000  # characters of a failed arm's output that are worth repeating


class ArmFailed(Exception):
    """An arm's process ended without a result."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What one arm does; the same pairs, adapters and steps for every arm of a run.

    Attributes:
        arm: The arm's name, which its process reads its own settings from.
        model: A key of ``SHAPES``.
        device: `cpu` or `cuda`.
        threads: Threads of the processor that torch may use; 0 leaves it to torch.
        pairs: File of the pairs, in the order in which the steps take them.
        adapter: Folder of the first adapter weights; our arm writes it where it is absent.
        pairs_per_step: Pairs of an optimizer step, over all ranks.
        micro_batch: Pairs of one forward and backward (peers).
        token_budget: Tokens of one forward and backward (ours); 0 leaves it to the trainer.
        learning_rate: Constant, without warm-up.
        beta: β of the loss.
        rank: Of the adapters; alpha is twice that.
        seed: Of the adapters and of the plan.
        work: What is measured: `train` or `reference`.
        mechanisms_off: Names of mechanisms to switch off (ours).
    """

    arm: str
    model: str
    device: str
    threads: int
    pairs: str
    adapter: str
    pairs_per_step: int
    micro_batch: int = 1
    token_budget: int = 0
    learning_rate: float = 5e-4
    beta: float = 0.1
    rank: int = 16
    seed: int = 42
    work: str = "train"
    mechanisms_off: tuple[str, ...] = ()

    def load_pairs(self) -> Pairs:
        """Read the pairs, in the order in which the steps take them."""
        with np.load(self.pairs) as arrays:
            return Pairs(arrays["ids"], arrays["lengths"])


@dataclasses.dataclass
class Outcome:
    """What one arm's process measured.

    Attributes:
        loss: Mean loss of each optimizer step.
        step_seconds: Seconds of every step but the first.
        peak_bytes: Peak memory, see :func:`tests.bench.measure.peak_bytes`.
        reference_seconds: Seconds of scoring the reference beforehand; 0 where it is done in each step.
        logps: Reference log-probability of chosen and of rejected, summed, a pair: [n][2].
        versions: Versions of the packages.
        notes: What a reader of the figures must know.
    """

    loss: list[float] = dataclasses.field(default_factory=list)
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    peak_bytes: int = 0
    reference_seconds: float = 0.0
    logps: list[list[float]] = dataclasses.field(default_factory=list)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: str = ""


def save_pairs(pairs: Pairs, path: Path) -> None:
    """Write pairs where arms find them."""
    np.savez(path, ids=pairs.ids, lengths=pairs.lengths)


def run_arm(python: str, module: str, job: Any, ranks: int = 1, threads: int = 0) -> list[dict[str, Any]]:
    """Run ``module`` with ``job`` in processes of their own.

    Args:
        python: The interpreter: ours, or that of the peers' environment.
        module: A module with `main(job)` under :func:`serve`.
        job: A dataclass that the module understands.
        ranks: Processes, under torchrun where there is more than one.
        threads: Threads for each, or 0 for torch's own choice.

    Returns:
        What each rank wrote.

    Raises:
        ArmFailed: A process ended otherwise, or wrote nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        told, written = Path(folder) / "job.json", Path(folder) / "result.json"
        told.write_text(json.dumps(dataclasses.asdict(job)))
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
        command = [python, *launcher, "-m", module, str(told), str(written)]
        done = subprocess.run(command, cwd=ROOT, env=_environment(threads), capture_output=True, text=True)
        results = [written.with_suffix(f".{rank}") for rank in range(ranks)]
        if done.returncode or not all(path.exists() for path in results):
            own = done.stderr.partition("torch/distributed/elastic")[0]  # what follows is torchrun's own
            said = (done.stdout + own)[-SAID:]
            raise ArmFailed(f"the arm `{job.arm}` ended with code {done.returncode}:\n{said}")
        return [json.loads(path.read_text()) for path in results]


def _environment(threads: int) -> dict[str, str]:
    """Return this process's environment with what keeps an arm offline and quiet."""
    quiet = {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "WANDB_MODE": "disabled",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    return {**os.environ, **quiet, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}


def serve(kind: type[Any], main: Callable[[Any], Any]) -> None:
    """Be the process of an arm: read the job that the command line names, and write what ``main`` returns."""
    told, written = Path(sys.argv[1]), Path(sys.argv[2])
    values = json.loads(told.read_text())
    job = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    outcome = main(job)
    rank = os.environ.get("RANK", "0")
    written.with_suffix(f".{rank}").write_text(json.dumps(dataclasses.asdict(outcome)))


def utilisation(model: str, lengths: Any, pairs_per_s: float, rate: float) -> float:
    """Return the share of the machine's matmul rate that goes into the operations that pairs of these lengths need."""
    prompt, chosen, rejected = (float(mean) for mean in np.asarray(lengths, np.float64).mean(axis=0))
    return SHAPES[model].pair_flops(prompt, chosen, rejected) * pairs_per_s / rate
