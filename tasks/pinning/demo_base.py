"""The demo's base model: a tokenizer and a tiny model, trained from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.files import write_text
from tasks.demo.model.model import DemoModelConfig, train_demo_model
from tasks.pinning.model_folder import describe_model


def train_demo_base(config: DemoModelConfig, folder: Path) -> dict[str, Any]:
    """Train tokenizer and model into ``folder``, with the loss curve in curve.csv; return the metrics."""
    trained = train_demo_model(config, folder)
    curve = [f"{step},{loss:.6g}" for step, loss in enumerate(trained.losses, start=1)]
    write_text(folder / "curve.csv", "\n".join(["step,loss", *curve]) + "\n")
    return {**describe_model(folder), "loss": round(trained.loss, 6), "tokens": trained.tokens}
