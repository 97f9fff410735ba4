"""How pairs are laid out for one forward: every prompt once, or plain padded rows.

Shape suffixes: B rows, L tokens of a row, T = B·L, N completion tokens, K keys that all segments see,
S segments, n pairs.

Shared: one row of groups [prompt | completion | completion | …]. A completion's positions continue its prompt's, so
every token has the position that it would have alone. Segments say what a token sees: each is a run of queries with
its keys. A group's first segment is the prompt with its first completion; every further completion is a segment that
sees the prompt's keys and its own. Queries are the last of their segment's keys, so the mask is always "causal, aligned
at the bottom right". The prompt's last token predicts the first token of every completion. A completion's last token
predicts nothing, so it is a label only and not in the row.

Plain: one row per completion, each with its own copy of the prompt, padded on the right. In a causal model no token
sees a later one, so no mask is needed. This is right for every family.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence, Sized
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.core.errors import DataError
from tasks.pairs.tokens.token_cache import TokenRow

Array = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.int32]
_ODD = 0x9E3779B1  # multiples of it differ in all bits


@dataclasses.dataclass(frozen=True)
class Segments:
    """Which keys the queries of a shared row see, one segment at a time.

    Attributes:
        query_lengths: Queries of each segment, S numbers; together the segments' queries are the row.
        key_lengths: Keys of each segment, S numbers.
        key_K: Places in the row of all segments' keys, segment after segment.
        group_T: The group (prompt) of each token.
        branch_T: The completion of each token within its group, counted from 1; 0 for the prompt.
        position_T: The place of each token in its own sequence.
        key_runs: Places of each segment's keys as runs, S tuples; together the runs are ``key_K``.
    """

    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    key_K: Tensor
    group_T: Tensor
    branch_T: Tensor
    position_T: Tensor
    key_runs: tuple[tuple[slice, ...], ...]

    @functools.cached_property
    def offsets(self) -> list[Tensor]:
        """Where each segment's queries begin, and the end; likewise its keys: int32 [S + 1] each."""
        ends = (np.cumsum([0, *lengths]).astype(np.int32) for lengths in (self.query_lengths, self.key_lengths))
        return [torch.from_numpy(numbers).to(self.key_K.device, non_blocking=True) for numbers in ends]

    @functools.cached_property
    def windows(self) -> set[int]:
        """The sliding windows that layers have passed to attention so far, 0 for none."""
        return set()

    @functools.cached_property
    def masks(self) -> dict[tuple[object, object], Any]:
        """A kernel's masks of these segments, made for the first layer and reused by the others."""
        return {}


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pairs laid out for one forward.

    Attributes:
        ids_BL: Token ids, zero after each row's end.
        position_BL: Position of each token in its own sequence.
        segments: Which keys the tokens of a shared row see; None for plain rows.
        source_N: Place in T of the token that predicts each completion token.
        label_N: The completion token itself; in the order of the pairs, chosen before rejected.
        branch_N: The token's completion, ascending: 2i for the chosen of pair i, 2i + 1 for the rejected.
        hash_T: A hash per token, int32, of its prompt, or prompt and completion, and its place there; 0 for padding.
        pairs: n.
        is_long_BL: Whether the token's text exceeds the limit that the rows were laid out with; None without one.
    """

    ids_BL: Tensor
    position_BL: Tensor
    segments: Segments | None
    source_N: Tensor
    label_N: Tensor
    branch_N: Tensor
    hash_T: Tensor
    pairs: int
    is_long_BL: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on ``device``."""
        segments = None if self.segments is None else _moved(self.segments, device)
        return dataclasses.replace(_moved(self, device), segments=segments)


Part = TypeVar("Part", Segments, Batch)


def _moved(part: Part, device: torch.device | str) -> Part:
    """Return a copy with its tensors on ``device``."""
    values: dict[str, Any] = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    values.update({name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})
    return type(part)(**values)


def lay_out_shared(rows: Sequence[TokenRow], limit: int | None = None) -> Batch:
    """Lay pairs out in one row, every distinct prompt once.

    Args:
        rows: The pairs.
        limit: Tokens beyond which a text has positions of another kind, and shares no prompt with shorter ones.

    Raises:
        DataError: A prompt, chosen or rejected has no tokens.
    """
    _refuse_empty(rows)

    # the completions of each distinct prompt, by their numbers in the batch
    groups: dict[tuple[bytes, bool], list[int]] = {}
    for i, row in enumerate(rows):
        for side, completion in enumerate((row.chosen, row.rejected)):
            groups.setdefault((row.prompt.tobytes(), _is_long(row.prompt, completion, limit)), []).append(2 * i + side)

    plan = _Row()
    for branches in groups.values():
        parts = [(branch, (rows[branch // 2].chosen, rows[branch // 2].rejected)[branch % 2]) for branch in branches]
        plan.add(rows[branches[0] // 2].prompt, parts)

    segments = Segments(
        query_lengths=tuple(plan.query_lengths),
        key_lengths=tuple(sum(run.stop - run.start for run in runs) for runs in plan.key_runs),
        key_K=_tensor([np.arange(run.start, run.stop) for runs in plan.key_runs for run in runs]),
        group_T=_tensor(plan.groups),
        branch_T=_tensor(plan.branches),
        position_T=_tensor(plan.positions),
        key_runs=tuple(plan.key_runs),
    )
    source_N = _tensor([plan.sources[branch] for branch in range(2 * len(rows))])
    tensors = (_tensor(plan.ids)[None], segments.position_T[None], segments, source_N, *_labels(rows))

    is_long_G = torch.tensor([is_long for _, is_long in groups])
    is_long_BL = None if limit is None else is_long_G[segments.group_T][None]
    return Batch(*tensors, torch.from_numpy(np.concatenate(plan.hashes)), len(rows), is_long_BL)


@dataclasses.dataclass
class _Row:
    """A shared row while it is built: parts of each of its arrays, in order."""

    ids: list[npt.NDArray[np.int32]] = dataclasses.field(default_factory=list)
    hashes: list[Hashes] = dataclasses.field(default_factory=list)
    positions: list[Array] = dataclasses.field(default_factory=list)
    groups: list[Array] = dataclasses.field(default_factory=list)
    branches: list[Array] = dataclasses.field(default_factory=list)
    sources: dict[int, Array] = dataclasses.field(default_factory=dict)
    query_lengths: list[int] = dataclasses.field(default_factory=list)
    key_runs: list[tuple[slice, ...]] = dataclasses.field(default_factory=list)
    size: int = 0

    def add(self, prompt: npt.NDArray[np.int32], completions: Sequence[tuple[int, npt.NDArray[np.int32]]]) -> None:
        """Add a prompt and its completions, each with its number in the batch."""
        group = len(self.groups)
        begin = self.size
        text = zlib.crc32(prompt.tobytes())
        prompt_places = self._append(prompt, 0, 0)
        self.hashes.append(_hashes(text, 0, len(prompt)))

        for number, (branch, completion) in enumerate(completions):
            places = self._append(completion[:-1], len(prompt), number + 1)
            self.hashes.append(_hashes(zlib.crc32(completion.tobytes(), text), len(prompt), len(places)))
            self.sources[branch] = np.concatenate([prompt_places[-1:], places])
            if number and not len(places):
                continue

            # the first completion shares the prompt's segment; a further one sees the prompt's keys and its own
            self.query_lengths.append(len(places) + (0 if number else len(prompt)))
            completion_keys = slice(self.size - len(places), self.size)
            prompt_keys = slice(begin, begin + len(prompt))
            self.key_runs.append((prompt_keys, completion_keys) if number else (slice(begin, completion_keys.stop),))

        self.groups.append(np.full(self.size - begin, group))

    def _append(self, ids: npt.NDArray[np.int32], position: int, branch: int) -> Array:
        """Append tokens; return their places in the row."""
        self.ids.append(ids)
        self.positions.append(np.arange(position, position + len(ids)))
        self.branches.append(np.full(len(ids), branch))
        self.size += len(ids)
        return np.arange(self.size - len(ids), self.size)


def lay_out_plain(rows: Sequence[TokenRow], limit: int | None = None) -> Batch:
    """Lay pairs out as padded rows: the chosen of pair i in row 2i, the rejected in row 2i + 1.

    Args:
        rows: The pairs.
        limit: Tokens beyond which a text has positions of another kind.

    Raises:
        DataError: A prompt, chosen or rejected has no tokens.
    """
    _refuse_empty(rows)
    branches = [(row.prompt, completion) for row in rows for completion in (row.chosen, row.rejected)]
    width = max(len(prompt) + len(completion) for prompt, completion in branches)
    ids, hashes = np.zeros((len(branches), width), dtype=np.int64), np.zeros((len(branches), width), dtype=np.int32)

    for i, (prompt, completion) in enumerate(branches):
        text, places = zlib.crc32(prompt.tobytes()), slice(len(prompt), len(prompt) + len(completion))
        ids[i, : len(prompt)], hashes[i, : len(prompt)] = prompt, _hashes(text, 0, len(prompt))
        ids[i, places] = completion
        hashes[i, places] = _hashes(zlib.crc32(completion.tobytes(), text), len(prompt), len(completion))

    source_N = _tensor([i * width + len(p) - 1 + np.arange(len(c)) for i, (p, c) in enumerate(branches)])
    position_BL = torch.arange(width).expand(len(branches), width)
    tensors = (torch.from_numpy(ids), position_BL, None, source_N, *_labels(rows))
    is_long_B = torch.tensor([_is_long(*branch, limit) for branch in branches])
    is_long_BL = None if limit is None else is_long_B[:, None].expand(position_BL.shape)
    return Batch(*tensors, torch.from_numpy(hashes.reshape(-1)), len(rows), is_long_BL)


def length_of_longest(rows: Sequence[TokenRow]) -> int:
    """Return the tokens of the longest text, which is a prompt with one of its completions."""
    return max(len(row.prompt) + max(len(row.chosen), len(row.rejected)) for row in rows)


def _is_long(prompt: Sized, completion: Sized, limit: int | None) -> bool:
    return limit is not None and len(prompt) + len(completion) > limit


def _labels(rows: Sequence[TokenRow]) -> tuple[Tensor, Tensor]:
    """Return each completion token [N] and the number of its completion [N]."""
    completions = [completion for row in rows for completion in (row.chosen, row.rejected)]
    return _tensor(completions), torch.from_numpy(np.repeat(np.arange(len(completions)), [len(c) for c in completions]))


def _hashes(text: int, first: int, count: int) -> Hashes:
    """Return a hash per token, int32 [count], for the tokens from place ``first`` of a text that hashes to ``text``."""
    places = np.arange(first + 1, first + count + 1, dtype=np.uint32) * np.uint32(_ODD)
    return (places ^ np.uint32(text)).view(np.int32)


def _tensor(parts: Sequence[npt.NDArray[np.integer]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64, copy=False))


def _refuse_empty(rows: Sequence[TokenRow]) -> None:
    if not all(len(part) for row in rows for part in (row.prompt, row.chosen, row.rejected)):
        raise DataError("a pair has an empty prompt, chosen or rejected", "drop it before training")
