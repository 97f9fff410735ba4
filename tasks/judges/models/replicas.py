"""A model that reads many texts: in batches of like length, on all GPUs of this machine, one copy on each.

B is the number of texts of a batch, W the tokens of its longest.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from tasks.core.runtime import RuntimeConfig
from tasks.dpo.model.threads import suited_threads
from tasks.judges.models.row_cache import Floats, TokenText

Read = Callable[[Any, list[TokenText], torch.device], Floats]


def devices_of(runtime: RuntimeConfig) -> list[torch.device]:
    """Return every GPU of this machine; the CPU where there is none, or `runtime.device` says so."""
    count = torch.cuda.device_count() if runtime.device == "auto" and torch.cuda.is_available() else 0
    return [torch.device("cuda", number) for number in range(count)] or [torch.device("cpu")]


class Replicas:
    """Copies of a model, each loaded when the first text is read.

    Args:
        load: Loads the model onto a device.
        read: Returns the numbers of a batch of texts: float32 [B, d].
        devices: One copy is loaded onto each.
        tokens: The most tokens of a batch, padding included; a longer text is a batch of its own.
    """

    def __init__(
        self, load: Callable[[torch.device], Any], read: Read, devices: Sequence[torch.device], tokens: int
    ) -> None:
        self._load, self._read, self._devices, self._tokens = load, read, devices, tokens
        self._models: list[Any] = []

    def read(self, texts: Sequence[TokenText]) -> list[Floats]:
        """Return the numbers of each text: float32 [d]."""
        if not self._models:
            self._models = [self._load(device) for device in self._devices]
        rows: list[Floats | None] = [None] * len(texts)
        waiting: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        for batch in batches(texts, self._tokens):
            waiting.put(batch)

        def work(model: Any, device: torch.device) -> None:
            with torch.inference_mode():
                while batch := _next(waiting):
                    numbers = self._read(model, [texts[place] for place in batch], device)
                    for place, row in zip(batch, numbers, strict=True):
                        rows[place] = row

        with suited_threads(self._models[0]), ThreadPoolExecutor(len(self._models)) as pool:
            list(pool.map(work, self._models, self._devices))
        return [row for row in rows if row is not None]


def _next(waiting: queue.SimpleQueue[list[int]]) -> list[int]:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return []


def batches(texts: Sequence[TokenText], tokens: int) -> list[list[int]]:
    """Return the places of texts in batches of like length, the longest first, each of at most ``tokens`` tokens."""
    order = sorted(range(len(texts)), key=lambda place: (-len(texts[place].ids), place))
    made: list[list[int]] = []
    room = 0
    for place in order:
        if room == 0:
            made.append([])
            room = max(1, tokens // max(1, len(texts[place].ids)))
        made[-1].append(place)
        room -= 1
    return made


def padded(texts: Sequence[TokenText], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the ids of a batch, padded behind the texts, and its attention mask: int64 [B, W] both."""
    width = max(len(text.ids) for text in texts)
    ids = torch.full((len(texts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)] = torch.tensor(text.ids)
        mask[row, : len(text.ids)] = 1
    return ids.to(device), mask.to(device)
