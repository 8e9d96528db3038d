"""The attention function: write new keys and values into KV blocks, attend over each sequence's block table.

HuggingFace's models stay as they are. They call :class:`PagedAttention` for every layer, with the queries, keys and
values of one flat row that holds the new tokens of all scheduled sequences side by side; which token belongs to whom is
in its :class:`FlatBatch`. In float32 on a CPU a kernel reads the blocks where they lie; everywhere else they
are gathered for PyTorch's attention. (vLLM: ``v1/attention/``; transformers: "Attention Interface".)
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from folovllm.kernels.available import has_kernels
from folovllm.models.flat_batch import FlatBatch, Group


class PagedAttention:
    """What one forward pass of a HuggingFace model calls as its attention function.

    windows: for each call in turn, how many latest positions a token sees, itself included; None for all before it.

    The KV cache has a layer for each call: a model may call it twice a layer, or run a layer twice.
    """

    def __init__(self, batch: FlatBatch, windows: Sequence[int | None]) -> None:
        self._batch = batch
        self._windows = enumerate(windows)
        self._attend = _attend_by_kernel if has_kernels(batch.kv_cache.data) else attend_by_torch
        self._slots = batch.tensors.slots

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
        *batch.bundled,
        batch.seen,
        np.float32(scaling),
        window or 0,
        output,
    )
    return torch.from_numpy(output)


def attend_by_torch(layer: int, queries: Tensor, batch: FlatBatch, scaling: float, window: int | None) -> Tensor:
    """Return the same. Sequences that decode are padded to one length; a prompt is attended for by itself."""
    groups = batch.tensors.groups or batch.group()
    if len(groups) == 1:
        return _attend_in_group(groups[0], layer, queries, batch, scaling, window)
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    for group in groups:
        output[group.tokens] = _attend_in_group(group, layer, queries[group.tokens], batch, scaling, window)
    return output


def _attend_in_group(
    group: Group, layer: int, queries: Tensor, batch: FlatBatch, scaling: float, window: int | None
) -> Tensor:
    """queries: those of the group's tokens, [num_sequences * num_tokens, num_heads, head_dim]."""
    k, v = (part[group.slots].transpose(1, 2) for part in batch.kv_cache.layer(layer))
    (num_seqs, num_tokens), (_, num_heads, head_dim), num_kv_heads = group.positions.shape, queries.shape, k.shape[1]
    mask = group.mask(window, queries.dtype)
    if num_tokens == 1:  # the heads that share keys stand side by side, as if they were tokens
        q = queries.reshape(num_seqs, num_kv_heads, num_heads // num_kv_heads, head_dim)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    else:
        q = queries.reshape(num_seqs, num_tokens, num_heads, head_dim).transpose(1, 2)
        # Repeated here: asked to share keys under a mask, PyTorch's quick kernels for cards step aside.
        k, v = (part.repeat_interleave(num_heads // num_kv_heads, dim=1) for part in (k, v))
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling).transpose(1, 2)
    return attended.reshape(queries.shape)
