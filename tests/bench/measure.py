"""What is read off a process and its machine: step times, peak memory, the rate of matrix products.

Runs in the peers' environment too: it needs torch and the standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "agilerl", "datasets", "numpy", "safetensors")
MATMULS = ((2048, 512, 1376), (2048, 512, 32000), (2048, 2048, 2048), (4096, 4096, 4096), (8192, 8192, 8192))
SECONDS_PER_SHAPE = 1.0
FAST_BF16 = ("avx512_bf16", "amx_bf16")
BF16 = "_bf16"  # ends the names of arms that multiply in bfloat16 on a CPU


class StepClock:
    """Times each optimizer step of any trainer: from the end of one `optimizer.step` to the end of the next.

    The first step has no such beginning and counts as warm-up, for every trainer alike.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._marks: list[float] = []
        self._hook = register_optimizer_step_post_hook(self._mark)

    def _mark(self, optimizer: Optimizer, *_: object) -> None:
        synchronise(self.device)
        self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Return the seconds of the second step, the third, and so on; and stop listening."""
        self._hook.remove()
        return [later - earlier for earlier, later in zip(self._marks, self._marks[1:], strict=False)]


def synchronise(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def forget_peak(device: str) -> None:
    """Begin to measure peak memory here, from what is held now; where a system cannot, it stays the whole run's."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """Return the peak memory since :func:`forget_peak`.

    On CUDA what the allocator handed out at most. On a CPU the peak resident size of this whole process,
    interpreter and libraries included: the kernel's mark for this program, since `getrusage` keeps the mark
    of the program that started it.
    """
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def has_fast_bf16(device: str) -> bool:
    """Return whether bfloat16 is faster than float32 there."""
    info = Path("/proc/cpuinfo")
    return device == "cuda" or (info.exists() and any(word in info.read_text() for word in FAST_BF16))


def matmul_rate(device: str, dtype: torch.dtype | None = None) -> tuple[float, str]:
    """Return the best rate of matrix products, in operations a second, and how it was reached.

    A fixed list of shapes, each timed for about a second; by default in float32 on a CPU, in bfloat16 on CUDA.
    """
    dtype = dtype or (torch.bfloat16 if device == "cuda" else torch.float32)
    best, how = 0.0, ""
    for m, k, n in MATMULS:
        if device == "cpu" and m * k * n > 2**37:
            continue
        left, right = (torch.randn(size, device=device).to(dtype) for size in ((m, k), (k, n)))
        rate = 2.0 * m * k * n / _best_seconds(functools.partial(torch.matmul, left, right), device)
        if rate > best:
            best, how = rate, f"{str(dtype).removeprefix('torch.')} [{m}x{k}]·[{k}x{n}]"
    return best, how


def _best_seconds(work: Callable[[], Any], device: str) -> float:
    """Return the shortest time of one call, over calls of about a second in all."""
    work()
    synchronise(device)
    best, end = float("inf"), time.perf_counter() + SECONDS_PER_SHAPE
    while time.perf_counter() < end:
        began = time.perf_counter()
        work()
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return best


def machine(device: str) -> dict[str, Any]:
    """Return what this machine is, without its name."""
    about = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.system(),
    }
    if device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
        about["gpu_memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
    return about


def _processor() -> str:
    """Return the processor's name with the features that matter here."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = [line.partition(":") for line in info.read_text().splitlines()]
    found = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    has = [word for word in ("avx2", "avx512f", *FAST_BF16) if word in found.get("flags", "").split()]
    return " ".join([found.get("model name", platform.machine()), *has])


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, as installed for this process."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
