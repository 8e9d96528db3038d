"""How a flat batch finds its keys and values in the KV blocks, worked out once a step for all layers.

Queries are computed in groups: as few as possible, since each costs its operators, but without reading many blocks for
nothing. Sequences that decode on a common beginning read it once.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, takewhile

import torch
from torch import Tensor

from folovllm.models.kv_cache import KVCache

_MOST_PADDING = 800
"""Slots that a group of sequences may read for nothing, for each of its new tokens: another group costs as much."""

_MOST_QUERIES = 256
"""A sequence's new tokens are divided into pieces of at most so many: each reads the context up to its own end only."""

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
    """The first ``context`` slots of each row's blocks: read in place where all blocks lie side by side, else gathered.

    tables: block ids, equally many a row.
    """

    def __init__(self, tables: list[list[int]], context: int, kv_cache: KVCache) -> None:
        block_size, device = kv_cache.data.shape[3], kv_cache.data.device
        self._kv_cache, self._num_rows, self._context = kv_cache, len(tables), context
        self._index: Tensor | None = None
        self._in_place: tuple[Tensor, ...] = ()
        block_ids = list(chain.from_iterable(tables))
        if block_ids == list(range(block_ids[0], block_ids[0] + len(block_ids))):
            width = len(tables[0]) * block_size
            self._in_place = kv_cache.in_place(block_ids[0] * block_size, len(tables), width, context)
        else:
            blocks = torch.tensor(tables, device=device)
            slots = (blocks[:, :, None] * block_size + torch.arange(block_size, device=device)).flatten(1)
            self._index = slots[:, :context].flatten()

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return one layer's keys and values, each [num_rows, num_kv_heads, context, head_dim]."""
        if self._index is None:
            return self._in_place[2 * layer], self._in_place[2 * layer + 1]
        keys, values = self._kv_cache.layer(layer)
        return self._gather(keys, "keys"), self._gather(values, "values")

    def _gather(self, part: Tensor, purpose: str) -> Tensor:
        assert self._index is not None, "else it is read in place"
        gathered = self._kv_cache.gather(part, self._index, purpose)
        return gathered.view(self._num_rows, self._context, *part.shape[1:]).transpose(1, 2)


@dataclass
class Group:
    """Queries that are computed together, in rows: those of a row meet the same keys.

    A row is one sequence with its new tokens, or a family: sequences with a common beginning, the newest token of each.

    token_index: [num_rows, num_queries], places in the flat row.
    slots: what the rows read.
    positions: [num_rows, num_queries], of the tokens in their sequences.
    key_positions: [context] or, in a family, [num_queries, context]: what position a slot has for a query.
    sees_all: every query sees every slot of its row.
    """

    token_index: Tensor
    slots: _Slots
    positions: Tensor
    key_positions: Tensor
    sees_all: bool
    _masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)

    @property
    def context(self) -> int:
        """How many slots a row reads."""
        return self.key_positions.shape[-1]

    def mask(self, window: int | None, repeat: int, dtype: torch.dtype) -> Tensor | None:
        """Return 0 where a token may look and -inf elsewhere, [num_rows, 1, repeat * num_queries, context]; or no mask.

        window: how many latest positions a token sees, itself included; None for all before it.
        Made once a step and shared by all layers with the same window.
        """
        if self.sees_all and (window is None or window >= self.context):
            return None
        if (window, repeat) not in self._masks:
            distance = self.positions[:, :, None] - self.key_positions
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)
            self._masks[window, repeat] = mask.repeat(1, repeat, 1)[:, None]
        return self._masks[window, repeat]


class PagedBatch:
    """What the attention function must know of one flat batch, worked out once for all layers.

    with_families: let sequences with a common beginning read it together; then NaN of one reaches them all.
    """

    def __init__(self, runs: list[TokenRun], kv_cache: KVCache, with_families: bool = True) -> None:
        self.kv_cache = kv_cache
        block_size = kv_cache.data.shape[3]
        device = kv_cache.data.device
        slots: list[int] = []
        stale: list[int] = []
        positions: list[int] = []
        families = _find_families(runs) if with_families else {}
        self.has_families = bool(families)
        alike: dict[tuple[int, int], list[_Member]] = defaultdict(list)
        for run in runs:
            family = run.block_ids[0] if _belongs_to(families, run) else _NO_FAMILY
            for offset, piece in _divide(run, block_size):
                alike[piece.num_tokens, family].append((len(slots) + offset, piece))
            run_positions = range(run.start, run.start + run.num_tokens)
            positions.extend(run_positions)
            slots.extend(run.block_ids[p // block_size] * block_size + p % block_size for p in run_positions)
            stale.extend(_slots_left_over(run, block_size))
        self.position_ids = torch.tensor(positions, device=device)
        self.slot_mapping = torch.tensor(slots, device=device)
        kv_cache.clear_slots(stale)
        self.groups: list[Group] = []
        for (num_tokens, family), members in alike.items():
            for group in _split_by_length(members, _MOST_PADDING // num_tokens // block_size):
                if family == _NO_FAMILY:
                    self.groups.append(self._make_group(group))
                else:
                    self.groups += self._make_families(group, families[family])

    def _make_families(self, members: list[_Member], num_shared: int) -> list[Group]:
        """Divide sequences that share so many blocks: in a family each query meets the blocks of all members."""
        width = max(len(run.block_ids) for _, run in members)
        most = _MOST_OWNED * num_shared // (width - num_shared)
        size = math.ceil(len(members) / math.ceil(len(members) / most))
        parts = [members[first : first + size] for first in range(0, len(members), size)]
        return [self._make_family(part, width, num_shared) for part in parts]

    def _make_group(self, members: list[_Member]) -> Group:
        device = self.position_ids.device
        width = max(len(run.block_ids) for _, run in members)
        tables = [_widen(run.block_ids, width) for _, run in members]
        ends = {run.start + run.num_tokens for _, run in members}
        num_tokens, context = members[0][1].num_tokens, max(ends)
        first = torch.tensor([offset for offset, _ in members], device=device)
        token_index = first[:, None] + torch.arange(num_tokens, device=device)
        return Group(
            token_index=token_index,
            slots=_Slots(tables, context, self.kv_cache),
            positions=self.position_ids[token_index],
            key_positions=torch.arange(context, device=device),
            sees_all=num_tokens == 1 and len(ends) == 1,
        )

    def _make_family(self, members: list[_Member], width: int, num_shared: int) -> Group:
        device, block_size = self.position_ids.device, self.kv_cache.data.shape[3]
        tables = [_widen(run.block_ids, width)[num_shared:] for _, run in members]
        token_index = torch.tensor([[offset for offset, _ in members]], device=device)
        positions = torch.arange(width * block_size, device=device)
        shared, own = positions[: num_shared * block_size], positions[num_shared * block_size :]
        count = len(members)
        owned = torch.full((count, count, len(own)), _NOBODYS, device=device)
        owned[range(count), range(count)] = own
        table = [*members[0][1].block_ids[:num_shared], *chain.from_iterable(tables)]
        return Group(
            token_index=token_index,
            slots=_Slots([table], len(table) * block_size, self.kv_cache),
            positions=self.position_ids[token_index],
            key_positions=torch.cat([shared.expand(count, -1), owned.flatten(1)], dim=1),
            sees_all=False,
        )


def _widen(block_ids: list[int], width: int) -> list[int]:
    """Make a table longer by blocks of its own: what is read for nothing must be no other's, who may have NaN there."""
    return block_ids + block_ids[-1:] * (width - len(block_ids))


def _slots_left_over(run: TokenRun, block_size: int) -> range:
    """Return the slots behind a run's end, if it is the first to write to its last block: they hold another's past."""
    end = run.start + run.num_tokens
    if (end - 1) // block_size * block_size < run.start:
        return range(0)
    first = run.block_ids[(end - 1) // block_size] * block_size
    return range(first + (end - 1) % block_size + 1, first + block_size)


def _divide(run: TokenRun, block_size: int) -> Iterator[tuple[int, TokenRun]]:
    """Yield equal pieces of a run, each with its place in it and the blocks up to its end.

    A token sees only what lies before it: attention of a long prompt as a whole computes twice what is needed.
    """
    size = math.ceil(run.num_tokens / math.ceil(run.num_tokens / _MOST_QUERIES))
    for first in range(0, run.num_tokens, size):
        start, num_tokens = run.start + first, min(size, run.num_tokens - first)
        yield first, TokenRun(start, num_tokens, run.block_ids[: -(-(start + num_tokens) // block_size)])


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
