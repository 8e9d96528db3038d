"""One step as a flat batch: the new tokens of all sequences side by side, and where their keys and values lie."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from folovllm.models.kv_cache import KVCache

Numbers = NDArray[np.int64]

_PIECE = 16
"""A sequence's new tokens are divided into pieces of at most so many: what a thread attends for at a time."""


@dataclass(frozen=True)
class TokenRun:
    """The new tokens of one sequence: positions ``start`` to ``start + num_tokens``, and where its KV lives."""

    start: int
    num_tokens: int
    block_ids: list[int]


class FlatBatch:
    """What a forward pass is given, and what attention must know, worked out once for all layers.

    token_ids, positions, slots: [num_tokens]; a slot is a place in the KV cache, counted over all blocks.
    rows: [num_rows], the tokens whose logits are wanted.
    tables: [num_runs, most_blocks], the block ids of each sequence; behind a shorter one's there are zeros.
    pieces: [num_pieces, 4], as :mod:`folovllm.kernels.attention` takes them.
    """

    def __init__(self, token_ids: Sequence[int], rows: Sequence[int], runs: list[TokenRun], kv_cache: KVCache) -> None:
        self.kv_cache = kv_cache
        self.token_ids = np.array(token_ids, np.int64)
        self.rows = np.array(rows, np.int64)
        self.counts = np.array([run.num_tokens for run in runs])
        self.first_tokens = np.cumsum(self.counts) - self.counts
        starts = np.array([run.start for run in runs])
        owner = np.repeat(np.arange(len(runs)), self.counts)
        self.positions = np.arange(len(owner)) + (starts - self.first_tokens)[owner]
        self.tables = np.zeros((len(runs), max(len(run.block_ids) for run in runs)), np.int64)
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

    def tensor(self, numbers: Numbers) -> Tensor:
        """Return numbers on the device of the KV cache."""
        return torch.from_numpy(numbers).to(self.kv_cache.data.device)
