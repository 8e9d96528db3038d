"""Attention over blocks, by the kernel and by PyTorch, against a brute force in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.kernels import available
from folovllm.models import attention
from folovllm.models.attention import PagedAttention
from folovllm.models.flat_batch import FlatBatch, TokenRun
from folovllm.models.kv_cache import KVCache

HEAD_DIM, NUM_KV_HEADS, GROUP = 8, 2, 3
WAYS = [attention._attend_by_kernel, attention.attend_by_torch]


def make_cache(lengths: list[int], block_size: int, random: torch.Generator) -> tuple[KVCache, list[list[int]]]:
    """Return a cache full of NaN, and block tables for sequences whose earlier keys and values it holds."""
    tables, free = [], torch.randperm(sum(-(-length // block_size) for length in lengths), generator=random).tolist()
    cache = KVCache(1, len(free), block_size, NUM_KV_HEADS, HEAD_DIM, torch.float32, torch.device("cpu"))
    cache.data.fill_(torch.nan)
    for length in lengths:
        tables.append([free.pop() for _ in range(-(-length // block_size))])
    return cache, tables


def brute_force(q, k, v, start, window, scaling):
    """q: the tokens from position ``start`` on.  k, v: all of the sequence."""
    q, k, v = (each.double().numpy() for each in (q, k, v))
    out = np.empty_like(q)
    for i, h in np.ndindex(q.shape[:2]):
        end = start + i + 1
        first = 0 if window is None else max(0, end - window)
        scores = k[first:end, h // GROUP] @ q[i, h] * scaling
        weights = np.exp(scores - scores.max())
        out[i, h] = weights @ v[first:end, h // GROUP] / weights.sum()
    return torch.from_numpy(out)


@pytest.mark.parametrize("way", WAYS, ids=["kernel", "torch"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    runs=st.lists(st.tuples(st.integers(0, 70), st.integers(1, 40) | st.just(1)), min_size=1, max_size=6),
    block_size=st.integers(1, 20),
    window=st.none() | st.integers(1, 80),
    seed=st.integers(0, 100),
)
def test_each_token_sees_its_own_sequence_up_to_itself_and_nothing_else(way, runs, block_size, window, seed):
    random = torch.Generator().manual_seed(seed)
    cache, tables = make_cache([start + count for start, count in runs], block_size, random)
    whole = []
    for (start, count), table in zip(runs, tables, strict=True):
        k, v = torch.randn(2, start + count, NUM_KV_HEADS, HEAD_DIM, generator=random)
        whole.append((k, v))
        for position in range(start):
            slot = table[position // block_size] * block_size + position % block_size
            for part, new in zip(cache.layer(0), (k, v), strict=True):
                part[slot] = new[position]
    total = sum(count for _, count in runs)
    queries = torch.randn(1, NUM_KV_HEADS * GROUP, total, HEAD_DIM, generator=random)
    keys, values = (
        torch.cat([pair[i][start:] for pair, (start, _) in zip(whole, runs, strict=True)]).transpose(0, 1)[None]
        for i in range(2)
    )
    batch = FlatBatch([0] * total, [0], [TokenRun(*run, table) for run, table in zip(runs, tables, strict=True)], cache)
    paged = PagedAttention(batch, [window])
    paged._attend = way
    found, _ = paged(torch.nn.Module(), queries, keys, values, None, scaling=0.3)
    offset = 0
    for (start, count), (k, v) in zip(runs, whole, strict=True):
        q = queries[0, :, offset : offset + count].transpose(0, 1)
        expected = brute_force(q, k, v, start, window, 0.3)
        torch.testing.assert_close(found[0, offset : offset + count].double(), expected, atol=2e-5, rtol=1e-4)
        offset += count


def test_float32_on_a_cpu_is_the_kernels(monkeypatch):
    def way(dtype):
        cache = KVCache(1, 1, 4, NUM_KV_HEADS, HEAD_DIM, dtype, torch.device("cpu"))
        return PagedAttention(FlatBatch([0], [0], [TokenRun(0, 1, [0])], cache), [None])._attend

    assert way(torch.float32) is attention._attend_by_kernel
    assert way(torch.bfloat16) is way(torch.float64) is attention.attend_by_torch
    monkeypatch.setattr(available, "why_no_kernels", lambda: "ImportError: no LLVM")
    assert way(torch.float32) is attention.attend_by_torch


def test_a_batch_knows_its_positions_slots_and_pieces():
    cache = KVCache(1, 20, 4, 1, 2, torch.float32, torch.device("cpu"))
    runs = [TokenRun(5, 1, [3, 9]), TokenRun(2, 20, [1, 0, 2, 4, 5, 6]), TokenRun(0, 2, [7])]
    batch = FlatBatch(list(range(23)), [0, 20, 22], runs, cache)
    assert batch.positions.tolist() == [5, *range(2, 22), 0, 1]
    assert batch.slots.tolist()[:4] == [9 * 4 + 1, 1 * 4 + 2, 1 * 4 + 3, 0]
    assert batch.slots.tolist()[-3:] == [6 * 4 + 1, 7 * 4, 7 * 4 + 1]
    assert batch.pieces.tolist() == [[0, 1, 5, 0], [1, 16, 2, 1], [17, 4, 18, 1], [21, 2, 0, 2]]
    assert batch.tables.tolist()[0] == [3, 9, 0, 0, 0, 0]


def bundles_of(positions, tables, counts=None):
    cache = KVCache(1, 99, 16, 1, 2, torch.float32, torch.device("cpu"))
    counts = counts or [1] * len(positions)
    runs = [TokenRun(*run) for run in zip(positions, counts, tables, strict=True)]
    pieces, bundles = FlatBatch([0] * sum(counts), [0], runs, cache).bundled
    return pieces[:, 3].tolist(), bundles.tolist()


PROMPT, OTHER = list(range(10, 20)), list(range(30, 40))


def test_sequences_that_begin_with_the_same_blocks_are_bundled_by_fours():
    tables = [[*PROMPT, 50 + i] for i in range(6)]
    assert bundles_of([160, 170, 161, 162, 163, 164], tables) == (list(range(6)), [[0, 4, 128], [4, 6, 128]])


def test_others_may_stand_between_them():
    tables = [[*PROMPT, 1], [*OTHER, 2], [*PROMPT, 3], [*OTHER, 4], [5]]
    order, bundles = bundles_of([160, 165, 161, 166, 3], tables)
    assert order == [4, 0, 2, 1, 3]
    assert bundles == [[0, 1, 0], [1, 3, 128], [3, 5, 128]]


def test_a_bundle_shares_whole_tiles_before_all_of_its_tokens():
    assert bundles_of([63, 64], [PROMPT, PROMPT])[1] == [[0, 1, 0], [1, 2, 0]]
    assert bundles_of([64, 65], [PROMPT, PROMPT])[1] == [[0, 2, 64]]
    assert bundles_of([159, 159], [PROMPT, [*PROMPT[:7], *OTHER]])[1] == [[0, 2, 64]]
    assert bundles_of([159, 159], [PROMPT, [*PROMPT[:3], *OTHER]])[1] == [[0, 1, 0], [1, 2, 0]]


def test_nobody_who_shares_less_joins_a_bundle_and_no_long_piece_does():
    tables = [PROMPT, PROMPT, [*PROMPT[:4], *OTHER], [*PROMPT[:4], *OTHER]]
    assert bundles_of([159, 159, 159, 159], tables)[1] == [[0, 2, 128], [2, 4, 128]]
    assert bundles_of([140, 140, 140], [PROMPT] * 3, [1, 16, 2])[1] == [[0, 1, 0], [1, 2, 0], [2, 3, 0]]
    assert bundles_of([140, 140, 140], [PROMPT] * 3, [1, 2, 2])[1] == [[0, 2, 128], [2, 3, 0]]
