"""The attention function: write new keys and values into KV blocks, attend over each sequence's block table.

HuggingFace's models stay as they are. They call the function registered here under
``ATTENTION_NAME`` for every layer, with the queries, keys and values of one flat row that holds
the new tokens of all scheduled sequences side by side; which token belongs to whom is in the
:class:`PagedBatch` that travels along as a keyword argument. (vLLM: ``v1/attention/``; transformers:
"Attention Interface".)
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import takewhile

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from folovllm.engine.kv_cache import KVCache

ATTENTION_NAME = "folovllm_paged"

_MOST_PADDING = 800
"""Slots that a group of sequences may read for nothing, for each of its new tokens: another group costs as much."""

_MIN_SHARERS = 4
_MIN_SHARED_BLOCKS = 4
"""From these on, decoding sequences on the same first blocks read them once, not once each."""


@dataclass(frozen=True)
class TokenRun:
    """The new tokens of one sequence: positions ``start`` to ``start + num_tokens``, and where its KV lives."""

    start: int
    num_tokens: int
    block_ids: list[int]


class _Slots:
    """The slots of some blocks, in order: read in place where the blocks lie side by side, else gathered.

    purpose: "shared" or "own": what is gathered for the one must not overwrite what is for the other.
    """

    def __init__(self, block_ids: list[int], kv_cache: KVCache, purpose: str) -> None:
        first, count = (block_ids[0], len(block_ids)) if block_ids else (0, 0)
        block_size, device = kv_cache.data.shape[3], kv_cache.data.device
        self.num_slots = count * block_size
        self._kv_cache = kv_cache
        self._purpose = purpose
        self._start = first * block_size
        self._index: Tensor | None = None
        if block_ids != list(range(first, first + count)):
            blocks = torch.tensor(block_ids, device=device)
            self._index = (blocks[:, None] * block_size + torch.arange(block_size, device=device)).flatten()

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return one layer's keys and values, each [num_slots, num_kv_heads, head_dim]."""
        keys, values = self._kv_cache.layer(layer)
        if self._index is None:
            return keys.narrow(0, self._start, self.num_slots), values.narrow(0, self._start, self.num_slots)
        gather, purpose = self._kv_cache.gather, self._purpose
        return gather(keys, self._index, f"{purpose} keys"), gather(values, self._index, f"{purpose} values")


@dataclass
class _Group:
    """Sequences that are computed together: as many new tokens each, contexts of similar length.

    token_index: [num_seqs, num_new], places in the flat row.
    shared: the slots of the blocks that hold the beginning of all of them; often none.
    own: the slots of the blocks after these, of one sequence after the other, padded with block 0.
    positions: [num_seqs, num_new], of the new tokens in their sequences.
    """

    token_index: Tensor
    shared: _Slots
    own: _Slots
    positions: Tensor
    _masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)

    @property
    def context(self) -> int:
        """Count the slots of a sequence, shared ones included."""
        return self.shared.num_slots + self.own.num_slots // len(self.token_index)

    def mask(self, window: int | None, repeat: int, dtype: torch.dtype) -> Tensor:
        """Return 0 where a token may look and -inf elsewhere: [num_seqs, 1, repeat * num_new, context].

        window: how many latest positions a token sees, itself included; None for all before it.
        Made once a step and shared by all layers with the same window.
        """
        if (window, repeat) not in self._masks:
            slots = torch.arange(self.context, device=self.positions.device)
            distance = self.positions[:, :, None] - slots
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)
            self._masks[window, repeat] = mask.repeat(1, repeat, 1)[:, None]
        return self._masks[window, repeat]


class PagedBatch:
    """What the attention function must know of one flat batch, worked out once for all layers."""

    def __init__(self, runs: list[TokenRun], kv_cache: KVCache) -> None:
        self.kv_cache = kv_cache
        block_size = kv_cache.data.shape[3]
        device = kv_cache.data.device
        slots: list[int] = []
        positions: list[int] = []
        families = _find_families(runs)
        members: dict[tuple[int, int], list[tuple[int, TokenRun]]] = defaultdict(list)
        for run in runs:
            family = run.block_ids[0] if run.num_tokens == 1 and run.block_ids[0] in families else -1
            members[run.num_tokens, family].append((len(slots), run))
            run_positions = range(run.start, run.start + run.num_tokens)
            positions.extend(run_positions)
            slots.extend(run.block_ids[p // block_size] * block_size + p % block_size for p in run_positions)
        self.position_ids = torch.tensor(positions, device=device)
        self.slot_mapping = torch.tensor(slots, device=device)
        self.groups = [
            self._make_group(rows, families.get(family, 0))
            for (num_tokens, family), alike in members.items()
            for rows in _split_by_length(alike, _MOST_PADDING // num_tokens // block_size)
        ]

    def _make_group(self, rows: list[tuple[int, TokenRun]], num_shared: int) -> _Group:
        device = self.position_ids.device
        num_new = rows[0][1].num_tokens
        width = max(len(run.block_ids) for _, run in rows)
        tables = [run.block_ids[num_shared:] + [0] * (width - len(run.block_ids)) for _, run in rows]
        first = torch.tensor([offset for offset, _ in rows], device=device)
        token_index = first[:, None] + torch.arange(num_new, device=device)
        return _Group(
            token_index=token_index,
            shared=_Slots(rows[0][1].block_ids[:num_shared], self.kv_cache, "shared"),
            own=_Slots([block_id for table in tables for block_id in table], self.kv_cache, "own"),
            positions=self.position_ids[token_index],
        )


def _split_by_length(rows: list[tuple[int, TokenRun]], most_padding: int) -> list[list[tuple[int, TokenRun]]]:
    """Divide sequences into groups in which at most so many blocks are read for nothing.

    rows: offsets in the flat batch, and the sequences.  All contexts of a group are read as long as its longest.
    """
    groups: list[list[tuple[int, TokenRun]]] = []
    longest, padding = 0, 0
    for row in sorted(rows, key=lambda row: -len(row[1].block_ids)):
        padding += longest - len(row[1].block_ids)
        if not groups or padding > most_padding:
            groups.append([])
            longest, padding = len(row[1].block_ids), 0
        groups[-1].append(row)
    return [sorted(group, key=lambda row: row[0]) for group in groups]


def _find_families(runs: list[TokenRun]) -> dict[int, int]:
    """Return how many blocks the decoding sequences with the same first block share, by that block.

    Few sharers or short beginnings are left out: they would split the batch for little.
    """
    by_first: dict[int, list[list[int]]] = defaultdict(list)
    for run in runs:
        if run.num_tokens == 1:
            by_first[run.block_ids[0]].append(run.block_ids)
    families = {}
    for first, tables in by_first.items():
        if len(tables) >= _MIN_SHARERS:
            # The last block of each is its own: it has just been written to.
            columns = zip(*(table[:-1] for table in tables), strict=False)
            num_shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
            if num_shared >= _MIN_SHARED_BLOCKS:
                families[first] = num_shared
    return families


def _attend_with_shared_blocks(
    q: Tensor, keys: Tensor, values: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float
) -> Tensor:
    """Attend over a beginning that all sequences share and over what each has of its own.

    q: [num_seqs, num_kv_heads, rows, head_dim].  keys, values: [num_shared, num_kv_heads, head_dim].
    k, v: [num_seqs, num_kv_heads, num_own, head_dim].  mask: [num_seqs, 1, rows, num_shared + num_own].

    The queries of all sequences meet a shared key in one product, and one softmax runs over both
    parts. (Juravsky et al. 2024, arXiv:2402.05099; vLLM calls it cascade attention.)
    """
    num_seqs, num_kv_heads, rows, _ = q.shape
    num_shared = len(keys)
    q = q * scaling
    together = q.transpose(0, 1).reshape(num_kv_heads, num_seqs * rows, -1)
    shared = (together @ keys.permute(1, 2, 0)).view(num_kv_heads, num_seqs, rows, num_shared)
    scores = torch.cat([shared.transpose(0, 1), q @ k.transpose(2, 3)], dim=-1).add_(mask)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    own = weights[..., num_shared:] @ v
    together = weights[..., :num_shared].transpose(0, 1).reshape(num_kv_heads, num_seqs * rows, num_shared)
    shared = (together @ values.transpose(0, 1)).view(num_kv_heads, num_seqs, rows, -1).transpose(0, 1)
    return own + shared


def _attend(group: _Group, queries: Tensor, layer: int, scaling: float, window: int | None) -> Tensor:
    """Attend for one group; queries and result: [num_seqs * num_new, num_heads, head_dim]."""
    num_seqs, num_new = group.token_index.shape
    num_heads, head_dim = queries.shape[1:]
    k, v = (part.view(num_seqs, -1, *part.shape[1:]).transpose(1, 2) for part in group.own.read(layer))
    num_kv_heads = k.shape[1]
    repeat = num_heads // num_kv_heads
    # The heads that share a key head become further query rows, so that keys are never repeated.
    q = queries.reshape(num_seqs, num_new, num_kv_heads, repeat, head_dim)
    q = q.permute(0, 2, 3, 1, 4).reshape(num_seqs, num_kv_heads, repeat * num_new, head_dim)
    if group.shared.num_slots:
        mask = group.mask(window, repeat, queries.dtype)
        attended = _attend_with_shared_blocks(q, *group.shared.read(layer), k, v, mask, scaling)
    elif num_new == 1 and repeat % 2 and repeat > 1:
        # An odd number of rows takes half as long again as one more (MKL).
        mask = group.mask(window, repeat + 1, queries.dtype)
        attended = scaled_dot_product_attention(pad(q, (0, 0, 0, 1)), k, v, attn_mask=mask, scale=scaling)[:, :, :-1]
    else:
        mask = group.mask(window, repeat, queries.dtype)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    attended = attended.reshape(num_seqs, num_kv_heads, repeat, num_new, head_dim).permute(0, 3, 1, 2, 4)
    return attended.reshape(num_seqs * num_new, num_heads, head_dim)


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


def paged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    paged_batch: PagedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Attend within every sequence of a flat batch.

    query: [1, num_heads, num_tokens, head_dim].  key, value: [1, num_kv_heads, num_tokens, head_dim].
    Returns [1, num_tokens, num_heads, head_dim]. Other keyword arguments are transformers' own
    bookkeeping; those that would change the result are refused before loading (``model_probe.py``).
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    queries, keys, values = (each[0].transpose(0, 1) for each in (query, key, value))
    layer: int = module.layer_idx  # type: ignore[assignment]
    return attend(layer, queries, keys, values, paged_batch, scaling, sliding_window)[None], None


# No mask function goes with it: transformers then builds no mask and passes None.
AttentionInterface.register(ATTENTION_NAME, paged_attention)
