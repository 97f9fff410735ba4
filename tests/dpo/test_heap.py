"""Free memory goes back to the system when the heap has grown, and not after each step."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.dpo.telemetry.heap import Heap


class Machine:
    """A process whose steps leave given sizes behind; what was given back is gone before the next step."""

    def __init__(self) -> None:
        self.bytes = 0
        self.given_back = 0
        self.heap = Heap(lambda: self.bytes, self._give_back)

    def _give_back(self) -> None:
        self.given_back += 1

    def step(self, left: int) -> int:
        """Take one step that leaves ``left`` bytes; return how often memory has been given back so far."""
        self.bytes = left
        self.heap.after_step()
        return self.given_back


def test_equal_steps_give_back_once() -> None:
    # Arrange: the first step comes after the model was loaded, and knows no step that began with an empty heap.
    machine = Machine()

    # Act
    given = [machine.step(1000) for _ in range(5)]

    # Assert
    assert given == [1, 1, 1, 1, 1]


def test_a_heap_that_grew_by_more_than_a_tenth_is_given_back() -> None:
    machine = Machine()

    given = [machine.step(left) for left in (1000, 1000, 1050, 1099, 1101, 1000, 1099)]

    assert given == [1, 1, 1, 1, 2, 2, 2]


def test_a_step_that_needs_more_by_itself_is_the_new_measure() -> None:
    """The step after a release began with nothing: what it leaves is its own need."""
    machine = Machine()

    given = [machine.step(left) for left in (1000, 1000, 1500, 1500, 1600)]

    assert given == [1, 1, 2, 2, 2]


def test_growth_never_passes_the_measure_for_long() -> None:
    """Pieces that pile up are given back again and again; the measure does not creep up with them."""
    machine = Machine()
    left, peaks = 1000, []

    for _ in range(200):
        before = machine.given_back
        peaks.append(left)
        left = 1000 if machine.step(left) > before else left + 20

    assert max(peaks) <= 1120
    assert machine.given_back > 10


def test_without_the_systems_figures_memory_is_left_alone() -> None:
    machine = Machine()

    assert [machine.step(0) for _ in range(3)] == [0, 0, 0]


PIECES_COME_AND_GO = """
import torch
from tasks.dpo.telemetry.heap import release, resident_bytes

torch.ones(16_384)  # what the first tensor loads stays
before = resident_bytes()
pieces = [torch.ones(16_384) for _ in range(2_000)]  # 64 KiB each, small enough to lie in the heap
held = resident_bytes()
del pieces
release()
print(held - before, resident_bytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the figures and the heap are those of Linux")
def test_a_tensors_pages_count_and_come_back() -> None:
    """In a process of its own: the heap of one that ran other tests may hold room for all the pieces already."""
    done = subprocess.run([sys.executable, "-c", PIECES_COME_AND_GO], capture_output=True, text=True, check=True)

    held, left = map(int, done.stdout.split())
    assert held > 100 * 2**20
    assert left < 30 * 2**20
