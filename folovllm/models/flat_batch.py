"""One step as a flat batch: the new tokens of all sequences side by side, and where their keys and values lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from folovllm.kernels.available import has_kernels
from folovllm.models.kv_cache import KVCache
from folovllm.transfer import send_together

T = TypeVar("T")
Numbers = NDArray[np.int64]

_PIECE = 16
"""A sequence's new tokens are divided into pieces of at most so many: what a thread attends for at a time."""

_TOGETHER = 4
"""Pieces with a beginning in common are bundled while they have at most so many tokens together."""


@dataclass(frozen=True)
class TokenRun:
    """The new tokens of one sequence: positions ``start`` to ``start + num_tokens``, and where its KV lives."""

    start: int
    num_tokens: int
    block_ids: list[int]


@dataclass(frozen=True)
class Group:
    """Sequences with equally many new tokens, for which PyTorch attends at once.

    tokens: their places in the batch; as a slice where they lie side by side.
    positions: [num_sequences, num_tokens].  tables: [num_sequences, most_blocks].
    """

    tokens: slice | Tensor
    positions: Tensor
    tables: Tensor
    block_size: int
    _masks: dict[int | None, Tensor] = field(default_factory=dict)

    @cached_property
    def slots(self) -> Tensor:
        """The slots of each sequence, [num_sequences, most_blocks * block_size]; behind its end, its first one again.

        Whatever lies behind a sequence's end is masked, but 0 * NaN is NaN, and it may be another's past.
        """
        offsets = torch.arange(self.block_size, device=self.tables.device)
        slots = (self.tables[:, :, None] * self.block_size + offsets).flatten(1)
        return torch.where(self._all_positions <= self.positions[:, -1:], slots, slots[:, :1])

    @cached_property
    def _all_positions(self) -> Tensor:
        return torch.arange(self.tables.shape[1] * self.block_size, device=self.tables.device)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return what is added to scores, 0 or -inf: [num_sequences, 1, num_tokens, num_slots]."""
        if window not in self._masks:
            positions = self.positions[:, :, None]
            hidden = self._all_positions > positions
            if window is not None:
                hidden |= self._all_positions <= positions - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)
            self._masks[window] = mask[:, None]
        return self._masks[window]


@dataclass(frozen=True)
class BatchTensors:
    """A batch's arrays where the model is; groups: where PyTorch is to attend, else empty."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    rows: Tensor
    groups: list[Group]


class FlatBatch:
    """What a forward pass is given, and what attention must know, worked out once for all layers.

    token_ids, positions, slots: [num_tokens]; a slot is a place in the KV cache, counted over all blocks.
    rows: [num_rows], the tokens whose logits are wanted.
    tables: [num_runs, most_blocks], the block ids of each sequence; behind a shorter one's there are zeros.
        least_blocks: they are at least so wide, and PyTorch attends over so many blocks.
    pieces: [num_pieces, 4], as :mod:`folovllm.kernels.attention` takes them.
    """

    def __init__(
        self,
        token_ids: Sequence[int],
        rows: Sequence[int],
        runs: list[TokenRun],
        kv_cache: KVCache,
        least_blocks: int = 1,
    ) -> None:
        self.kv_cache = kv_cache
        self.token_ids = np.array(token_ids, np.int64)
        self.rows = np.array(rows, np.int64)
        self.counts = np.array([run.num_tokens for run in runs])
        self.first_tokens = np.cumsum(self.counts) - self.counts
        starts = np.array([run.start for run in runs])
        owner = np.repeat(np.arange(len(runs)), self.counts)
        self.positions = np.arange(len(owner)) + (starts - self.first_tokens)[owner]
        self._least_blocks = least_blocks
        self.tables = np.zeros((len(runs), max(least_blocks, *(len(run.block_ids) for run in runs))), np.int64)
        for table, run in zip(self.tables, runs, strict=True):
            table[: len(run.block_ids)] = run.block_ids
        block, offset = np.divmod(self.positions, kv_cache.block_size)
        self.slots = self.tables[owner, block] * kv_cache.block_size + offset
        self.pieces = np.array(
            [
                (first + done, min(_PIECE, run.num_tokens - done), run.start + done, index)
                for index, (first, run) in enumerate(zip(self.first_tokens, runs, strict=True))
                for done in range(0, run.num_tokens, _PIECE)
            ]
        )

    @cached_property
    def seen(self) -> Numbers:
        """Where each sequence's tokens lie, [num_runs, most_slots], as :mod:`folovllm.kernels.attention` takes it."""
        # Here: importing numba takes .3 s, and a GPU has no use for it.
        from folovllm.kernels.attention_tile import TILE

        offsets = np.arange(self.kv_cache.block_size)
        slots = (self.tables[:, :, None] * self.kv_cache.block_size + offsets).reshape(len(self.tables), -1)
        return np.pad(slots, ((0, 0), (0, -slots.shape[1] % TILE)))

    def divide(self, size: int) -> Iterator[tuple[int, int, Numbers]]:
        """Yield equal parts of about ``size`` tokens: the first, the end, its pieces (rows counted from the first)."""
        num_parts = max(1, round(len(self.token_ids) / size))
        part_of_piece = (self.pieces[:, 0] + self.pieces[:, 1] - 1) * num_parts // len(self.token_ids)
        for part in np.unique(part_of_piece):
            pieces = self.pieces[part_of_piece == part]
            first = pieces[0, 0]
            yield first, pieces[-1, :2].sum(), pieces - [first, 0, 0, 0]

    @cached_property
    def bundled(self) -> tuple[Numbers, Numbers]:
        """All pieces and their bundles."""
        return self.bundle(self.pieces)

    def bundle(self, pieces: Numbers) -> tuple[Numbers, Numbers]:
        """Return pieces, in another order, and their bundles, as :mod:`folovllm.kernels.attention` takes them."""
        from folovllm.kernels.attention_tile import TILE

        pieces = pieces[np.argsort(self.tables[pieces[:, 3], 0], kind="stable")]
        tables, positions = self.tables[pieces[:, 3]], pieces[:, 2]
        num_blocks = np.minimum.accumulate(tables[1:] == tables[:-1], axis=1).sum(1)
        common = np.minimum(num_blocks * self.kv_cache.block_size, np.minimum(positions[1:], positions[:-1]))
        bundles = [[0, 1, 0]]
        num_tokens = pieces[0, 1]
        for i, tokens in enumerate((common // TILE * TILE).tolist(), 1):
            num_tokens += pieces[i, 1]
            first, _, so_far = bundles[-1]
            if num_tokens <= _TOGETHER and tokens > 0 and tokens >= so_far:
                bundles[-1] = [first, i + 1, so_far or tokens]
            else:
                bundles.append([i, i + 1, 0])
                num_tokens = pieces[i, 1]
        return pieces, np.array(bundles)

    @cached_property
    def tensors(self) -> BatchTensors:
        """The batch on the device of the KV cache."""
        return send_together(self._collect(), self.kv_cache.data.device)

    def send_with(self, luggage: T) -> T:
        """Send the batch to its device, and return ``luggage`` there: whose tensors go in the same transfer."""
        device = self.kv_cache.data.device
        if device.type != "cpu":
            self.tensors, luggage = send_together((self._collect(), luggage), device)
        return luggage

    def _collect(self) -> BatchTensors:
        return BatchTensors(
            torch.from_numpy(self.token_ids),
            torch.from_numpy(self.positions),
            torch.from_numpy(self.slots),
            torch.from_numpy(self.rows),
            [] if has_kernels(self.kv_cache.data) else self.group(),
        )

    def group(self) -> list[Group]:
        """Return all that decode as one group, and each prompt as one of its own; tensors on the host."""
        decoding = np.flatnonzero(self.counts == 1)
        groups = [decoding] if len(decoding) else []
        groups += [np.array([index]) for index in np.flatnonzero(self.counts > 1)]
        return [self._group(each) for each in groups]

    def _group(self, indices: Numbers) -> Group:
        tokens = self.first_tokens[indices, None] + np.arange(self.counts[indices[0]])
        positions = self.positions[tokens]
        first, last = int(tokens[0, 0]), int(tokens[-1, -1])
        num_blocks = max(self._least_blocks, positions.max() // self.kv_cache.block_size + 1)
        return Group(
            slice(first, last + 1) if last - first == tokens.size - 1 else torch.from_numpy(tokens.flatten()),
            torch.from_numpy(positions),
            torch.from_numpy(self.tables[indices, :num_blocks]),
            self.kv_cache.block_size,
        )
