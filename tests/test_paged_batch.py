"""Whatever groups a batch is divided into, attention is its definition: a softmax over each token's own past."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.models import paged_batch
from folovllm.models.attention import attend
from folovllm.models.kv_cache import KVCache
from folovllm.models.paged_batch import PagedBatch, TokenRun

NUM_BLOCKS, NUM_KV_HEADS, HEAD_DIM = 400, 2, 8
SCALING = HEAD_DIM**-0.5


def make_cache(block_size: int) -> KVCache:
    cache = KVCache(1, NUM_BLOCKS, block_size, NUM_KV_HEADS, HEAD_DIM, torch.float32, torch.device("cpu"))
    cache.data.copy_(torch.randn(cache.data.shape))
    return cache


def make_runs(rng: random.Random, block_size: int) -> list[TokenRun]:
    """Sequences in scattered blocks, some of which begin with the same blocks; most decode, some read a prompt."""
    free = list(range(NUM_BLOCKS))
    if rng.random() < 0.8:
        rng.shuffle(free)
    beginnings = [[free.pop() for _ in range(rng.randint(1, 12))] for _ in range(2)]
    runs = []
    for _ in range(rng.randint(1, 14)):
        table = list(rng.choice([*beginnings, []]))
        shared = len(table) * block_size
        length = shared + rng.randint(1, 5 * block_size)
        num_tokens = 1 if rng.random() < 0.8 else rng.randint(1, length - shared)
        table += [free.pop() for _ in range(-(-length // block_size) - len(table))]
        runs.append(TokenRun(length - num_tokens, num_tokens, table))
    return runs


def by_definition(runs, cache, queries, window):
    """Attend token by token in float64."""
    keys, values = (part.double() for part in cache.layer(0))
    block_size, repeat = cache.data.shape[3], queries.shape[1] // NUM_KV_HEADS
    outputs = []
    for run in runs:
        for position in range(run.start, run.start + run.num_tokens):
            first = 0 if window is None else max(0, position - window + 1)
            slots = [run.block_ids[p // block_size] * block_size + p % block_size for p in range(first, position + 1)]
            k, v = (part[slots].repeat_interleave(repeat, 1) for part in (keys, values))
            scores = torch.einsum("hd,shd->hs", queries[len(outputs)].double(), k) * SCALING
            outputs.append(torch.einsum("hs,shd->hd", scores.softmax(-1), v))
    return torch.stack(outputs)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    block_size=st.sampled_from([1, 4, 16]),
    repeat=st.sampled_from([1, 2, 3]),
    window=st.sampled_from([None, 1, 7, 50]),
    most_queries=st.sampled_from([1, 5, 16, 256]),
)
def test_attention_is_its_definition(seed, block_size, repeat, window, most_queries):
    torch.manual_seed(seed)
    cache, runs = make_cache(block_size), make_runs(random.Random(seed), block_size)
    count = sum(run.num_tokens for run in runs)
    queries = torch.randn(count, repeat * NUM_KV_HEADS, HEAD_DIM)
    keys, values = torch.randn(2, count, NUM_KV_HEADS, HEAD_DIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paged_batch, "_MOST_QUERIES", most_queries)
        batch = PagedBatch(runs, cache)
    attended = attend(0, queries, keys, values, batch, SCALING, window)
    # The new keys and values are in their places now.
    assert torch.equal(cache.layer(0)[0][batch.slot_mapping], keys)
    assert torch.equal(cache.layer(0)[1][batch.slot_mapping], values)
    torch.testing.assert_close(attended.double(), by_definition(runs, cache, queries, window), atol=1e-5, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 256]))
def test_every_token_is_in_one_group(seed, most_queries):
    runs = make_runs(random.Random(seed), 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paged_batch, "_MOST_QUERIES", most_queries)
        groups = PagedBatch(runs, make_cache(4)).groups
    tokens = torch.cat([group.token_index.flatten() for group in groups])
    assert sorted(tokens.tolist()) == list(range(sum(run.num_tokens for run in runs)))


def test_a_long_prompt_is_divided_and_each_piece_reads_up_to_its_own_end(cache):
    groups = PagedBatch([TokenRun(40, 600, list(range(40)))], cache).groups
    pieces = {tuple(group.token_index[0, [0, -1]].tolist()): group.context for group in groups}
    assert pieces == {(0, 199): 240, (200, 399): 440, (400, 599): 640}


def decoding(*tables: list[int]) -> list[TokenRun]:
    return [TokenRun(16 * len(table) - 1, 1, table) for table in tables]


@pytest.fixture
def cache() -> KVCache:
    return make_cache(16)


def test_sequences_with_a_common_beginning_are_one_row(cache):
    shared = list(range(100, 120))
    [group] = PagedBatch(decoding(*([*shared, 200 + i] for i in range(6))), cache).groups
    assert group.token_index.tolist() == [[0, 1, 2, 3, 4, 5]]
    assert group.key_positions.shape == (6, 16 * (20 + 6))


def test_few_sharers_a_short_beginning_and_long_texts_of_ones_own_are_no_family(cache):
    shared = list(range(100, 120))
    few = [[*shared, 200 + i] for i in range(3)]
    short = [[100, 101, 102, 200 + i] for i in range(6)]
    long = [[*shared, *range(130 + 15 * i, 145 + 15 * i)] for i in range(6)]
    for tables in (few, short, long):
        [group] = PagedBatch(decoding(*tables), cache).groups
        assert group.token_index.shape == (len(tables), 1)


def test_many_members_are_divided_so_that_nobody_reads_much_of_others(cache):
    shared = list(range(100, 120))
    groups = PagedBatch(decoding(*([*shared, 200 + i, 300 + i] for i in range(50))), cache).groups
    assert [group.token_index.shape[1] for group in groups] == [17, 17, 16]
    for group in groups:
        own = group.key_positions.shape[1] - 16 * 20
        assert own <= paged_batch._MOST_OWNED * 16 * 20


def test_a_long_context_does_not_make_short_ones_read_as_much(cache):
    tables = [list(range(60)), *([100 + 2 * i, 101 + 2 * i] for i in range(10))]
    groups = PagedBatch(decoding(*tables), cache).groups
    assert sorted(len(group.token_index) for group in groups) == [1, 10]


def test_what_is_gathered_for_one_group_does_not_reach_another(cache):
    first, second = [[5, 3]], [[9, 7]]
    keys = [PagedBatch(decoding(*tables), cache).groups[0].slots.read(0)[0].clone() for tables in (first, second)]
    all_keys = cache.layer(0)[0].view(NUM_BLOCKS, 16, NUM_KV_HEADS, HEAD_DIM)
    for gathered, [table] in zip(keys, (first, second), strict=True):
        assert torch.equal(gathered[0].transpose(0, 1), all_keys[table].flatten(0, 1))


def test_a_lone_sequence_in_neighbouring_blocks_is_read_where_it_lies_and_without_a_mask(cache):
    [group] = PagedBatch([TokenRun(40, 1, [7, 8, 9])], cache).groups
    for part, there in zip(group.slots.read(0), cache.layer(0), strict=True):
        assert part.data_ptr() == there[7 * 16].data_ptr()
        assert torch.equal(part[0].transpose(0, 1), there[7 * 16 : 7 * 16 + 41])
    assert group.mask(None, 3, torch.float32) is None
    assert group.mask(41, 3, torch.float32) is None
    assert group.mask(40, 3, torch.float32) is not None
