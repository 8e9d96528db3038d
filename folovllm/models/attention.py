"""The attention function: write new keys and values into KV blocks, attend over each sequence's block table.

HuggingFace's models stay as they are. They call :class:`PagedAttention` for every layer, with the queries, keys and
values of one flat row that holds the new tokens of all scheduled sequences side by side; which token belongs to whom is
in its :class:`FlatBatch`. In float32 on a CPU a kernel reads the blocks where they lie; everywhere else they
are gathered for PyTorch's attention. (vLLM: ``v1/attention/``; transformers: "Attention Interface".)
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from folovllm.kernels.available import has_kernels
from folovllm.models.flat_batch import FlatBatch


class PagedAttention:
    """What one forward pass of a HuggingFace model calls as its attention function.

    windows: for each call in turn, how many latest positions a token sees, itself included; None for all before it.

    The KV cache has a layer for each call: a model may call it twice a layer, or run a layer twice.
    """

    def __init__(self, batch: FlatBatch, windows: Sequence[int | None]) -> None:
        self._batch = batch
        self._windows = enumerate(windows)
        self._attend = _attend_by_kernel if has_kernels(batch.kv_cache.data) else _attend_by_torch
        self._slots = batch.tensor(batch.slots)

    def __call__(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        **kwargs: object,
    ) -> tuple[Tensor, None]:
        """Attend within every sequence of the flat batch.

        query: [1, num_heads, num_tokens, head_dim].  key, value: [1, num_kv_heads, num_tokens, head_dim].
        Returns [1, num_tokens, num_heads, head_dim]. Other keyword arguments are transformers' own
        bookkeeping; those that would change the result are refused before loading (``probe.py``).
        """
        layer, window = next(self._windows)
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        queries, keys, values = (self._widen(each[0].transpose(0, 1)) for each in (query, key, value))
        for part, new in zip(self._batch.kv_cache.layer(layer), (keys, values), strict=True):
            part.index_copy_(0, self._slots, new)
        attended = self._attend(layer, queries, self._batch, scaling, window)
        # As transformers' own functions return it: some models take views of it.
        return attended[None, :, :, : value.shape[-1]].contiguous(), None

    def _widen(self, heads: Tensor) -> Tensor:
        """Add zeros up to the head size of the KV cache; they change no score, and their output is cut off."""
        missing = self._batch.kv_cache.data.shape[-1] - heads.shape[-1]
        return pad(heads, (0, missing)) if missing else heads


def _attend_by_kernel(layer: int, queries: Tensor, batch: FlatBatch, scaling: float, window: int | None) -> Tensor:
    """Return what each token gets from its sequence: [num_tokens, num_heads, head_dim], as ``queries``."""
    from folovllm.kernels.attention import attend
    from folovllm.kernels.team import THREADS

    output = np.empty(queries.shape, np.float32)
    THREADS.run(
        torch.get_num_threads(),
        1,
        attend,
        queries.contiguous().numpy(),
        *(part.numpy() for part in batch.kv_cache.layer(layer)),
        batch.pieces,
        batch.tables,
        batch.kv_cache.block_size,
        np.float32(scaling),
        window or 0,
        output,
    )
    return torch.from_numpy(output)


def _attend_by_torch(layer: int, queries: Tensor, batch: FlatBatch, scaling: float, window: int | None) -> Tensor:
    """Return the same. Sequences that decode are padded to one length; a prompt is attended for by itself."""
    keys, values = batch.kv_cache.layer(layer)
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    for tokens, slots, distance in _groups(batch):
        # Not only masked: 0 * NaN is NaN, and slots beyond a sequence's end hold another's past.
        beyond = (distance < 0).all(dim=1)[:, :, None, None]
        k, v = (part[slots].masked_fill(beyond, 0).transpose(1, 2) for part in (keys, values))
        sees = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        q = queries[tokens].transpose(1, 2)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=sees[:, None], scale=scaling, enable_gqa=True)
        output[tokens] = attended.transpose(1, 2)
    return output


def _groups(batch: FlatBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield groups of sequences with equally many new tokens.

    The tokens' places in the batch, [num_sequences, num_tokens]; their sequences' slots, [num_sequences, longest];
    and how far before each token each of these lies, [num_sequences, num_tokens, longest].
    """
    decoding = np.flatnonzero(batch.counts == 1)
    groups = [decoding] if len(decoding) else []
    groups += [np.array([index]) for index in np.flatnonzero(batch.counts > 1)]
    for group in groups:
        tokens = batch.first_tokens[group, None] + np.arange(batch.counts[group[0]])
        positions = np.arange(batch.positions[tokens].max() + 1)
        block, offset = np.divmod(positions, batch.kv_cache.block_size)
        slots = batch.tables[group][:, block] * batch.kv_cache.block_size + offset
        distance = batch.positions[tokens][:, :, None] - positions
        yield batch.tensor(tokens), batch.tensor(slots), batch.tensor(distance)
