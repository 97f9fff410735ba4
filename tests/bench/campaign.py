"""One run of a benchmark: its options, its arms one after the other in turns, and the file of what came out.

    tests/bench/results/<bench>-<device>-<profile>.json
    {"machine": …, "versions": …, "model": …, "lengths": …,
     "arms": {"ours": {"pairs_per_s": …, "peak_bytes": …, "loss": […], …}, "trl_tuned": …}}

A model other than the device's usual one adds its name to the file's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from tests.bench.job import ROOT, ArmFailed, Job, run_arm, save_pairs, utilisation
from tests.bench.measure import machine, matmul_rate, versions
from tests.bench.shapes import PROFILES, SHAPES, SIGMA, Pairs, draw

RESULTS = ROOT / "tests" / "bench" / "results"
PEERS = ROOT / ".peers"
USUAL_MODEL = {"cpu": "llama-512x6", "cuda": "llama-3.1-8b"}
MODULES = {"ours": "tests.bench.arm_ours", "trl": "tests.bench.arm_trl", "agilerl": "tests.bench.arm_agilerl"}
SWEEP = (1, 2, 4, 8, 16)

Outcomes = list[dict[str, Any]]  # what each rank of one process of an arm told


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to do the work: whose interpreter and module, told what, on how many ranks."""

    name: str
    python: str
    module: str
    job: Any
    ranks: int = 1


def options(description: str) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark can be told."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--profile", choices=sorted(PROFILES), default="hh", help="lengths of the pairs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", choices=sorted(SHAPES), help="shape; the device's usual one by default")
    parser.add_argument("--peer", action="append", choices=["trl", "agilerl"], default=[], help="measure it, too")
    parser.add_argument("--peers", type=Path, default=PEERS, help="folder of the peers' environment, or a Python")
    parser.add_argument("--pairs", type=int, default=48, help="pairs of one run of an arm")
    parser.add_argument("--pairs-per-step", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=1, help="pairs of the peers' micro-batch")
    parser.add_argument("--sweep", action="store_true", help="find each peer's best micro-batch first")
    parser.add_argument("--tokens", type=int, default=0, help="token budget of our micro-batch; 0 for auto")
    parser.add_argument("--threads", type=int, default=0, help="threads of every arm; 0 for torch's own choice")
    parser.add_argument("--repeats", type=int, default=1, help="rounds; each runs every arm once")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result")
    return parser


def settle(told: argparse.Namespace) -> argparse.Namespace:
    """Fill in what depends on other options, and refuse in one line what cannot be measured."""
    told.model = told.model or USUAL_MODEL[told.device]
    if told.threads:
        torch.set_num_threads(told.threads)  # the rate of matrix products is measured here
    if told.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: give --device cpu")
    if told.pairs % told.pairs_per_step or told.pairs < 2 * told.pairs_per_step:
        raise SystemExit("--pairs must be a multiple of --pairs-per-step, and two steps at least: the first is warm-up")
    if told.pairs_per_step % told.micro_batch:
        raise SystemExit("--pairs-per-step must be a multiple of --micro-batch")
    told.python = {peer: peers_python(told.peers, peer) for peer in told.peer}
    return told


def peers_python(place: Path, package: str) -> str:
    """Return the interpreter that has the peer installed, or end with one line that says what to do."""
    python = place if place.is_file() else place / "bin" / "python"
    install = "python -m tests.bench.peers install FOLDER, then --peers FOLDER"
    if not python.exists():
        raise SystemExit(f"--peer {package}: there is no environment in {place}: {install}")
    script = f"import importlib.metadata; importlib.metadata.version({package!r})"
    if subprocess.run([python, "-c", script], capture_output=True).returncode:
        raise SystemExit(f"--peer {package}: {package} is not installed for {python}: {install}")
    return str(python)


@dataclasses.dataclass
class Campaign:
    """One run: its options, its pairs, the folder that its arms share, the arms' results."""

    bench: str
    told: argparse.Namespace
    pairs: Pairs
    folder: Path
    arms: dict[str, Any] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    rates: list[tuple[float, str]] = dataclasses.field(default_factory=list)
    load: float = dataclasses.field(default_factory=lambda: os.getloadavg()[0])
    versions: dict[str, Any] = dataclasses.field(default_factory=lambda: {"ours": versions()})

    def job(self, arm: str, **more: Any) -> Job:
        """Return what an arm is told, apart from what is its own."""
        told = self.told
        values: dict[str, Any] = {
            "model": told.model,
            "device": told.device,
            "threads": told.threads,
            "pairs": str(self.folder / "pairs.npz"),
            "adapter": str(self.folder / "adapter"),
            "pairs_per_step": told.pairs_per_step,
            "micro_batch": told.micro_batch,
            "token_budget": told.tokens,
            "work": "reference" if self.bench == "reference" else "train",
        }
        return Job(arm, **{**values, **more})

    def ours(self, name: str = "ours", ranks: int = 1, **more: Any) -> Arm:
        """Return an arm of ours."""
        return Arm(name, sys.executable, MODULES["ours"], self.job(name, **more), ranks)

    def peer(self, name: str, ranks: int = 1, **more: Any) -> Arm:
        """Return an arm of a peer; its name begins with the peer's."""
        package = name.split("_")[0]
        return Arm(name, self.told.python[package], MODULES[package], self.job(name, **more), ranks)

    def run(self, arms: Iterable[Arm], entry: Callable[[Arm, Outcomes], dict[str, Any]]) -> None:
        """Run the arms in turns, as often as asked; keep each one's median round. A peer that fails is left out.

        Raises:
            SystemExit: An arm of ours failed.
        """
        rounds: dict[str, list[dict[str, Any]]] = {}
        for number in range(self.told.repeats):
            self.rates.append(matmul_rate(self.told.device))
            for arm in arms:
                say(f"round {number + 1} of {self.told.repeats}: {arm.name} …")
                outcomes = self._outcomes(arm)
                if outcomes is None:
                    continue
                self._note_versions(arm, outcomes)
                rounds.setdefault(arm.name, []).append(entry(arm, outcomes))
                say(f"  {brief(rounds[arm.name][-1])}")
        for name, entries in rounds.items():
            self.arms[name] = {**middle(entries), "rounds": [one["pairs_per_s"] for one in entries]}

    def _outcomes(self, arm: Arm) -> Outcomes | None:
        """Run an arm once; None where a peer fails, or failed before."""
        if arm.name in self.failed:
            return None
        try:
            return run_arm(arm.python, arm.module, arm.job, arm.ranks, arm.job.threads)
        except ArmFailed as error:
            if arm.name.split("_")[0] not in self.told.python:
                raise SystemExit(str(error)) from None
            say(str(error))
            self.failed[arm.name] = str(error).splitlines()[-1]
            return None

    def _note_versions(self, arm: Arm, outcomes: Outcomes) -> None:
        package = arm.name.split("_")[0]
        if package in self.told.python:
            self.versions[package] = outcomes[0].get("versions", {})

    def write(self, **more: Any) -> Path:
        """Write the result and return where."""
        told, usual = self.told, self.told.model == USUAL_MODEL[self.told.device]
        rate, how = max([*self.rates, matmul_rate(told.device)])
        about = {**machine(told.device), "matmul_flops_per_s": rate, "matmul": how, "load_before": self.load}
        in_bf16 = rate
        if told.device == "cpu" and any("bf16" in arm.get("settings", "") for arm in self.arms.values()):
            about["matmul_bf16_flops_per_s"] = in_bf16 = matmul_rate("cpu", torch.bfloat16)[0]
        for arm in self.arms.values():
            if lengths := arm.pop("measured_lengths", None):
                own = in_bf16 if "bf16" in arm["settings"] else rate
                arm["utilisation"] = utilisation(told.model, lengths, arm["pairs_per_s"], own)
        shape = SHAPES[told.model]
        found = {
            "machine": about,
            "versions": self.versions,
            "model": {
                "name": told.model,
                **dataclasses.asdict(shape),
                "body_matmul_parameters": shape.body_matmul_parameters,
                "lora_rank": Job.rank,
            },
            "lengths": lengths_of(told, self.pairs),
            "arms": self.arms,
            "failed": self.failed,
            **more,
        }
        name = f"{self.bench}-{told.device}-{told.profile}{'' if usual else f'-{told.model}'}.json"
        told.out.mkdir(parents=True, exist_ok=True)
        path: Path = told.out / name
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        say(f"written: {path}")
        return path


def campaign(bench: str, told: argparse.Namespace, folder: str) -> Campaign:
    """Begin a run: draw its pairs and put them where the arms find them."""
    pairs = draw(told.profile, told.pairs, SHAPES[told.model].vocabulary)
    save_pairs(pairs, Path(folder) / "pairs.npz")
    return Campaign(bench, settle(told), pairs, Path(folder))


def workplace() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for a run's pairs and adapter, removed at its end."""
    return tempfile.TemporaryDirectory(prefix="bench-")


def training_entry(run: Campaign) -> Callable[[Arm, Outcomes], dict[str, Any]]:
    """Return how an arm that trains is told in the result: steady-state pairs a second, peak, curve."""

    def entry(arm: Arm, outcomes: Outcomes) -> dict[str, Any]:
        first = outcomes[0]
        seconds = [max(every) for every in zip(*(one["step_seconds"] for one in outcomes), strict=True)]
        per_step = arm.job.pairs_per_step
        losses = zip(*(one["loss"] for one in outcomes), strict=True)
        return {
            "pairs_per_s": per_step * len(seconds) / sum(seconds),
            "peak_bytes": max(one["peak_bytes"] for one in outcomes),
            "loss": [sum(every) / len(every) for every in losses],
            "step_seconds": seconds,
            "reference_seconds": first["reference_seconds"],
            "settings": first["notes"],
            "measured_lengths": run.pairs.lengths[per_step : per_step * (len(seconds) + 1)].tolist(),
        }

    return entry


def compare_curves(run: Campaign, to: str = "ours") -> None:
    """Note and print each curve's largest difference from that of the arm ``to``, and the first loss."""
    for name, arm in run.arms.items():
        count = min(len(arm["loss"]), len(run.arms[to]["loss"]))
        pairs = zip(arm["loss"][:count], run.arms[to]["loss"][:count], strict=True)
        arm["largest_loss_difference"] = max(abs(one - other) for one, other in pairs)
        say(f"{name:24} {brief(arm)}, first loss {arm['loss'][0]:.6f}, off {arm['largest_loss_difference']:.1e}")


def best_micro_batch(run: Campaign, name: str) -> tuple[int, dict[str, float]]:
    """Try a peer's micro-batches on the first two steps' pairs; return the fastest, and each one's pairs/s."""
    found: dict[str, float] = {}
    short = run.pairs.subset(torch.arange(2 * run.told.pairs_per_step).numpy())
    path = run.folder / "short.npz"
    save_pairs(short, path)
    for size in SWEEP:
        if run.told.pairs_per_step % size:
            continue
        arm = run.peer(name, micro_batch=size, pairs=str(path))
        try:
            outcome = run_arm(arm.python, arm.module, arm.job, 1, arm.job.threads)[0]
        except ArmFailed as error:  # the largest may not fit
            say(f"  {name} at micro-batch {size} fails: {str(error).splitlines()[-1]}")
            continue
        found[str(size)] = run.told.pairs_per_step / outcome["step_seconds"][0]
        say(f"  {name} at micro-batch {size}: {found[str(size)]:.3f} pairs/s")
    if not found:
        raise SystemExit(f"{name} ran at no micro-batch of {SWEEP}")
    return int(max(found, key=lambda size: found[size])), found


def lengths_of(told: argparse.Namespace, pairs: Pairs) -> dict[str, Any]:
    """Return what the pairs' lengths are, as asked for and as drawn."""
    prompt, chosen, rejected = (int(total) for total in pairs.lengths.sum(axis=0))
    return {
        "profile": told.profile,
        "medians": dataclasses.asdict(PROFILES[told.profile]),
        "sigma": SIGMA,
        "pairs": len(pairs),
        "pairs_per_step": told.pairs_per_step,
        "tokens": {"prompt": prompt, "chosen": chosen, "rejected": rejected},
        "prompt_over_completion": 2 * prompt / (chosen + rejected),
    }


def middle(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of median speed, with the largest peak of all."""
    wanted = statistics.median_low(one["pairs_per_s"] for one in entries)
    found = next(one for one in entries if one["pairs_per_s"] == wanted)
    return {**found, "peak_bytes": max(one["peak_bytes"] for one in entries)}


def brief(arm: dict[str, Any]) -> str:
    """Return an arm's two figures in words."""
    return f"{arm['pairs_per_s']:8.3f} pairs/s, peak {arm['peak_bytes'] / 1e9:.2f} GB"


def say(text: str) -> None:
    """Tell the person who runs it, at once."""
    print(text, flush=True)
