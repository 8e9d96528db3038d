"""The attention function: write new keys and values into KV blocks, attend over each sequence's block table.

HuggingFace's models stay as they are. They call :class:`PagedAttention` for every layer, with the queries, keys and
values of one flat row that holds the new tokens of all scheduled sequences side by side; which token belongs to whom is
in its :class:`PagedBatch`. The engine's own forward pass calls :func:`attend`. (vLLM: ``v1/attention/``;
transformers: "Attention Interface".)
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from folovllm.models.paged_batch import Group, PagedBatch

_PADDING_PAYS = 1000
"""Slots that a group reads, from which on one more query a row costs less than the odd number of them."""


def _attend(group: Group, queries: Tensor, layer: int, scaling: float, window: int | None) -> Tensor:
    """Attend for one group; queries and result: [num_rows * num_queries, num_heads, head_dim]."""
    num_rows, num_queries = group.token_index.shape
    num_heads, head_dim = queries.shape[1:]
    k, v = group.slots.read(layer)
    num_kv_heads = k.shape[1]
    repeat = num_heads // num_kv_heads
    # The heads that share a key head become further queries, so that keys are never repeated.
    if num_queries == 1:
        q = queries.view(num_rows, num_kv_heads, repeat, head_dim)
    else:
        q = queries.view(num_rows, num_queries, num_kv_heads, repeat, head_dim).permute(0, 2, 3, 1, 4)
        q = q.reshape(num_rows, num_kv_heads, repeat * num_queries, head_dim)
    # MKL takes a quarter longer for three queries than for four, and for seven than for eight a little.
    missing = 1 if num_queries == 1 and repeat % 4 == 3 and num_rows * group.context > _PADDING_PAYS else 0
    if missing:
        q = pad(q, (0, 0, 0, missing))
    mask = group.mask(window, repeat + missing, queries.dtype)
    attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    if missing:
        attended = attended[:, :, :repeat]
    if num_queries > 1:
        attended = attended.view(num_rows, num_kv_heads, repeat, num_queries, head_dim).permute(0, 3, 1, 2, 4)
    return attended.reshape(num_rows * num_queries, num_heads, head_dim)


def attend(
    layer: int, queries: Tensor, keys: Tensor, values: Tensor, batch: PagedBatch, scaling: float, window: int | None
) -> Tensor:
    """Write one layer's new keys and values into their blocks, then attend within every sequence of a flat batch.

    queries and result: [num_tokens, num_heads, head_dim].  keys, values: [num_tokens, num_kv_heads, head_dim].
    window: how many latest positions a token sees, itself included; None for all before it.
    """
    for part, new in zip(batch.kv_cache.layer(layer), (keys, values), strict=True):
        part.index_copy_(0, batch.slot_mapping, new)
    if len(batch.groups) == 1:  # all tokens, in their order: nothing to pick out, nothing to put back
        return _attend(batch.groups[0], queries, layer, scaling, window)
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    for group in batch.groups:
        index = group.token_index.flatten()
        attended = _attend(group, queries.index_select(0, index), layer, scaling, window)
        output.index_copy_(0, index, attended)
    return output


class PagedAttention:
    """What one forward pass of a HuggingFace model calls as its attention function.

    windows: for each call in turn, how many latest positions a token sees, itself included; None for all before it.

    The KV cache has a layer for each call: a model may call it twice a layer, or run a layer twice.
    """

    def __init__(self, batch: PagedBatch, windows: Sequence[int | None]) -> None:
        self._batch = batch
        self._windows = enumerate(windows)

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
        attended = attend(layer, queries, keys, values, self._batch, scaling, window)
        # As transformers' own functions return it: some models take views of it.
        return attended[None, :, :, : value.shape[-1]].contiguous(), None

    def _widen(self, heads: Tensor) -> Tensor:
        """Add zeros up to the head size of the KV cache; they change no score, and their output is cut off."""
        missing = self._batch.kv_cache.data.shape[-1] - heads.shape[-1]
        return pad(heads, (0, missing)) if missing else heads
