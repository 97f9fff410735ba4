"""Where each stage writes, relative to the checkout's root (DVC runs every stage from there)."""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
LOCK = Path("dvc.lock")

BASE = Path("data/base")
PAIRS = Path("data/pairs")
TOKENS = Path("data/tokens")
INIT_ADAPTER = Path("data/adapters/init")
CHAMPION = Path("data/adapters/champion")
REFERENCE = Path("data/reference")
ADAPTER = Path("models/adapter")
TRAIN_RESULTS = Path("results/train")
RESPONSES = Path("data/responses")
BENCHMARKS = Path("results/benchmarks")
QUALIFICATION = Path("results/qualification")
WINRATE = Path("results/winrate")
REPORT = Path("results/report")
REGISTER = Path("results/register")
OUTPUTS = (
    BASE,
    PAIRS,
    TOKENS,
    INIT_ADAPTER,
    CHAMPION,
    REFERENCE,
    ADAPTER,
    TRAIN_RESULTS,
    RESPONSES,
    BENCHMARKS,
    QUALIFICATION,
    WINRATE,
    REPORT,
    REGISTER,
)

RUNS = Path("runs")  # never hashed: receipts, checkpoints, logs
RECEIPTS = RUNS / "receipts"
JUDGE = RUNS / "judge"  # caches of what judges were paid for
