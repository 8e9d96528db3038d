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
from itertools import chain, takewhile

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

_MOST_OWNED = 2
"""How many times as many as the shared blocks the members' own ones may be: each reads those of all, for nothing."""

_NO_FAMILY = -1

_NOBODYS = 2**30
"""The position of a key that a query must not see: it lies beyond every sequence."""


@dataclass(frozen=True)
class TokenRun:
    """The new tokens of one sequence: positions ``start`` to ``start + num_tokens``, and where its KV lives."""

    start: int
    num_tokens: int
    block_ids: list[int]


_Member = tuple[int, TokenRun]
"""A sequence, and the place of its first new token in the flat row."""


class _Slots:
    """The slots of some blocks, in order: read in place where the blocks lie side by side, else gathered."""

    def __init__(self, block_ids: list[int], kv_cache: KVCache) -> None:
        block_size, device = kv_cache.data.shape[3], kv_cache.data.device
        first, count = block_ids[0], len(block_ids)
        self._kv_cache = kv_cache
        self._start, self._num_slots = first * block_size, count * block_size
        self._index: Tensor | None = None
        if block_ids != list(range(first, first + count)):
            blocks = torch.tensor(block_ids, device=device)
            self._index = (blocks[:, None] * block_size + torch.arange(block_size, device=device)).flatten()

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return one layer's keys and values, each [num_slots, num_kv_heads, head_dim]."""
        keys, values = self._kv_cache.layer(layer)
        if self._index is None:
            return keys.narrow(0, self._start, self._num_slots), values.narrow(0, self._start, self._num_slots)
        return self._kv_cache.gather(keys, self._index, "keys"), self._kv_cache.gather(values, self._index, "values")


@dataclass
class _Group:
    """Queries that are computed together, in rows: those of a row meet the same keys.

    A row is one sequence with its new tokens, or a family: sequences with a common beginning, the newest token of each.

    token_index: [num_rows, num_queries], places in the flat row.
    slots: of one row after the other, padded with block 0.
    positions: [num_rows, num_queries], of the tokens in their sequences.
    key_positions: [context] or, in a family, [num_queries, context]: what position a slot has for a query.
    """

    token_index: Tensor
    slots: _Slots
    positions: Tensor
    key_positions: Tensor
    _masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, repeat: int, dtype: torch.dtype) -> Tensor:
        """Return 0 where a token may look and -inf elsewhere: [num_rows, 1, repeat * num_queries, context].

        window: how many latest positions a token sees, itself included; None for all before it.
        Made once a step and shared by all layers with the same window.
        """
        if (window, repeat) not in self._masks:
            distance = self.positions[:, :, None] - self.key_positions
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
        alike: dict[tuple[int, int], list[_Member]] = defaultdict(list)
        for run in runs:
            family = run.block_ids[0] if _belongs_to(families, run) else _NO_FAMILY
            alike[run.num_tokens, family].append((len(slots), run))
            run_positions = range(run.start, run.start + run.num_tokens)
            positions.extend(run_positions)
            slots.extend(run.block_ids[p // block_size] * block_size + p % block_size for p in run_positions)
        self.position_ids = torch.tensor(positions, device=device)
        self.slot_mapping = torch.tensor(slots, device=device)
        self.groups: list[_Group] = []
        for (num_tokens, family), members in alike.items():
            for group in _split_by_length(members, _MOST_PADDING // num_tokens // block_size):
                if family == _NO_FAMILY:
                    self.groups.append(self._make_group(group))
                else:
                    self.groups += self._make_families(group, families[family])

    def _make_families(self, members: list[_Member], num_shared: int) -> list[_Group]:
        """Divide sequences that share so many blocks: in a family each query meets the blocks of all members."""
        width = max(len(run.block_ids) for _, run in members)
        most = _MOST_OWNED * num_shared // (width - num_shared)
        size = math.ceil(len(members) / math.ceil(len(members) / most))
        parts = [members[first : first + size] for first in range(0, len(members), size)]
        return [self._make_family(part, width, num_shared) for part in parts]

    def _make_group(self, members: list[_Member]) -> _Group:
        device = self.position_ids.device
        width = max(len(run.block_ids) for _, run in members)
        tables = [run.block_ids + [0] * (width - len(run.block_ids)) for _, run in members]
        first = torch.tensor([offset for offset, _ in members], device=device)
        token_index = first[:, None] + torch.arange(members[0][1].num_tokens, device=device)
        return _Group(
            token_index=token_index,
            slots=_Slots(list(chain.from_iterable(tables)), self.kv_cache),
            positions=self.position_ids[token_index],
            key_positions=torch.arange(width * self.kv_cache.data.shape[3], device=device),
        )

    def _make_family(self, members: list[_Member], width: int, num_shared: int) -> _Group:
        device, block_size = self.position_ids.device, self.kv_cache.data.shape[3]
        tables = [run.block_ids[num_shared:] + [0] * (width - len(run.block_ids)) for _, run in members]
        token_index = torch.tensor([[offset for offset, _ in members]], device=device)
        positions = torch.arange(width * block_size, device=device)
        shared, own = positions[: num_shared * block_size], positions[num_shared * block_size :]
        count = len(members)
        owned = torch.full((count, count, len(own)), _NOBODYS, device=device)
        owned[range(count), range(count)] = own
        return _Group(
            token_index=token_index,
            slots=_Slots([*members[0][1].block_ids[:num_shared], *chain.from_iterable(tables)], self.kv_cache),
            positions=self.position_ids[token_index],
            key_positions=torch.cat([shared.expand(count, -1), owned.flatten(1)], dim=1),
        )


def _split_by_length(members: list[_Member], most_padding: int) -> list[list[_Member]]:
    """Divide sequences into groups in which at most so many blocks are read for nothing.

    All contexts of a group are read as long as its longest.
    """
    groups: list[list[_Member]] = []
    longest, padding = 0, 0
    for member in sorted(members, key=lambda member: -len(member[1].block_ids)):
        padding += longest - len(member[1].block_ids)
        if not groups or padding > most_padding:
            groups.append([])
            longest, padding = len(member[1].block_ids), 0
        groups[-1].append(member)
    return [sorted(group, key=lambda member: member[0]) for group in groups]


def _find_families(runs: list[TokenRun]) -> dict[int, int]:
    """Return how many blocks the decoding sequences with the same first block share, by that block.

    Few sharers or short beginnings are left out: they would split the batch for little. (Juravsky et al. 2024,
    arXiv:2402.05099; vLLM: cascade attention.)
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


def _belongs_to(families: dict[int, int], run: TokenRun) -> bool:
    """Say whether a decoding sequence shares so much that its own blocks are few beside it."""
    num_shared = families.get(run.block_ids[0], 0)
    own = len(run.block_ids) - num_shared
    return run.num_tokens == 1 and own * _MIN_SHARERS <= _MOST_OWNED * num_shared


def _attend(group: _Group, queries: Tensor, layer: int, scaling: float, window: int | None) -> Tensor:
    """Attend for one group; queries and result: [num_rows * num_queries, num_heads, head_dim]."""
    num_rows, num_queries = group.token_index.shape
    num_heads, head_dim = queries.shape[1:]
    k, v = (part.view(num_rows, -1, *part.shape[1:]).transpose(1, 2) for part in group.slots.read(layer))
    num_kv_heads = k.shape[1]
    repeat = num_heads // num_kv_heads
    # The heads that share a key head become further queries, so that keys are never repeated.
    q = queries.reshape(num_rows, num_queries, num_kv_heads, repeat, head_dim)
    q = q.permute(0, 2, 3, 1, 4).reshape(num_rows, num_kv_heads, repeat * num_queries, head_dim)
    # Of few queries an odd number takes MKL half as long again as one more.
    missing = 1 if num_queries == 1 and repeat % 2 and repeat > 1 else 0
    q = pad(q, (0, 0, 0, missing)) if missing else q
    mask = group.mask(window, repeat + missing, queries.dtype)
    attended = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)[:, :, : repeat * num_queries]
    attended = attended.reshape(num_rows, num_kv_heads, repeat, num_queries, head_dim).permute(0, 3, 1, 2, 4)
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
