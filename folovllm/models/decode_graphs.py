"""CUDA graphs: a step that decodes is recorded once, and from then on asked for in one call.

While it decodes, a card waits for its host, which asks for some 600 small operators one after the other. A recording
of them is replayed in one go, but always over the same sizes and the same memory. So a step is filled up to a size that
comes back, and its numbers are copied to where the recording reads them. (vLLM: ``compilation/cuda_graph.py``.)
"""

import copy
import threading
from collections.abc import Sized
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from folovllm.models.flat_batch import FlatBatch, Group, TokenRun
from folovllm.models.kv_cache import KVCache
from folovllm.models.torch_decoder import TorchDecoder

_LEAST_BLOCKS = 8
"""Block tables are as wide as this, or as a power of two above."""

_ONE_AT_A_TIME = threading.Lock()


def fill_up(token_ids: list[int], rows: list[int], runs: list[TokenRun], kv_cache: KVCache) -> FlatBatch:
    """Return a step as a batch; one that only decodes is filled up to a size that comes back."""
    if not is_decoding(token_ids, rows, runs):
        return FlatBatch(token_ids, rows, runs, kv_cache)
    count, num_blocks = len(runs), max(len(run.block_ids) for run in runs)
    size = -(-count // 8) * 8 if count > 4 else _power_of_two(count)  # vLLM's: 1, 2, 4, 8, 16, 24 ...
    # The last sequence once more, and again: it writes into its slot what it has written there already.
    return FlatBatch(
        [*token_ids, *token_ids[-1:] * (size - count)],
        range(size),
        [*runs, *runs[-1:] * (size - count)],
        kv_cache,
        max(_LEAST_BLOCKS, _power_of_two(num_blocks)),
    )


def is_decoding(token_ids: Sized, rows: Sized, runs: Sized) -> bool:
    """Say whether every sequence has one new token, and its logits are wanted."""
    return len(token_ids) == len(rows) == len(runs)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


class DecodeGraphs:
    """A forward pass for a CUDA card that replays what it has run before, if it only decodes.

    Batches come from :func:`fill_up`. What a recording needs while it runs is memory for good, shared by all of them.
    """

    def __init__(self, forward: TorchDecoder) -> None:
        self._forward = forward
        self._recordings: dict[tuple[int, ...], _Recording] = {}
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, batch: FlatBatch) -> Tensor:
        """Return the logits that follow ``batch.rows``: [num_rows, vocab]."""
        if not is_decoding(batch.token_ids, batch.rows, batch.counts):
            return self._forward(batch)
        size = batch.tables.shape
        if size not in self._recordings:
            self._recordings[size] = _Recording(self._forward, batch, self._memory)
        return self._recordings[size].replay(batch)


class _Recording:
    """The forward pass of a batch of one size. It keeps the first such batch, and reads its tensors ever after."""

    def __init__(self, forward: TorchDecoder, batch: FlatBatch, memory: Any) -> None:
        self._batch = batch
        # Whatever is loaded, chosen or reserved when it runs for the first time must not be a part of it.
        forward(_as_new(batch))
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the card, but PyTorch records on one stream of its own.
        with _ONE_AT_A_TIME, torch.cuda.graph(self._graph, pool=memory, capture_error_mode="thread_local"):
            self._logits = forward(_as_new(batch))

    def replay(self, batch: FlatBatch) -> Tensor:
        """Return the logits of a batch of its size, in memory of their own."""
        for place, new in zip(_numbers(self._batch), _numbers(batch), strict=True):
            place.copy_(new)
        self._graph.replay()
        return self._logits.clone()


def _numbers(batch: FlatBatch) -> list[Tensor]:
    """Return all that differs between batches of one size."""
    tensors, [group] = batch.tensors, batch.tensors.groups
    return [tensors.token_ids, tensors.positions, tensors.slots, group.positions, group.tables]


def _as_new(batch: FlatBatch) -> FlatBatch:
    """Return a batch over the same tensors that has worked out nothing yet: what it works out is to be recorded."""
    new, [group] = copy.copy(batch), batch.tensors.groups
    group = Group(group.tokens, group.positions, group.tables, group.block_size)
    new.tensors = replace(batch.tensors, groups=[group])
    return new
