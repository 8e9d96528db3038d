"""Attention over blocks is the softmax of float64, and the same bits however a sequence is cut."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.kernels.attention import attention, make_room
from folovllm.kernels.attention_tile import TILE
from tests.kernel_arrays import EPS, assert_within, normal, one_thread, same_bits


@dataclass
class Sequence:
    """The queries, keys and values of one sequence's tokens, and the blocks that they are kept in."""

    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    table: np.ndarray

    def __len__(self) -> int:
        return len(self.queries)


@dataclass
class Case:
    """Sequences in one cache. What no token of them has written there is NaN."""

    sequences: list[Sequence]
    block_size: int
    key_cache: np.ndarray
    value_cache: np.ndarray
    window: int = 0

    @property
    def scaling(self) -> np.float32:
        return np.float32(self.key_cache.shape[2] ** -0.5)

    def attend(self, *pieces: tuple[int, int, int], common: int | None = None) -> list[np.ndarray]:
        """Return the results of pieces, each a sequence's index, its first token and its end, from one call.

        common: so many tokens are the same for all of them, which are bundled; None: each is a bundle of its own.
        """
        queries = np.concatenate([self.sequences[i].queries[first:end] for i, first, end in pieces])
        lengths = [end - first for _, first, end in pieces]
        rows = np.cumsum([0, *lengths])
        # There is room for the longest; what stands beyond a sequence's own tokens is another's.
        longest = max(len(sequence) for sequence in self.sequences)
        slots = np.zeros((len(self.sequences), -(-longest // TILE) * TILE), np.int64)
        for row, sequence in zip(slots, self.sequences, strict=True):
            positions = np.arange(len(sequence))
            row[: len(sequence)] = sequence.table[positions // self.block_size] * self.block_size
            row[: len(sequence)] += positions % self.block_size
        described = [(row, end - first, first, i) for row, (i, first, end) in zip(rows, pieces, strict=False)]
        out = np.full_like(queries, np.nan)
        pieces, (_, num_kv_heads, head_dim) = np.array(described, np.int64), self.key_cache.shape
        bundles = [(i, i + 1, 0) for i in range(len(pieces))] if common is None else [(0, len(pieces), common)]
        bundles = np.array(bundles)
        room = make_room(pieces, bundles, slots, queries.shape[1] // num_kv_heads, head_dim)
        caches = self.key_cache, self.value_cache
        attention(one_thread(), queries, *caches, pieces, bundles, slots, self.scaling, self.window, room, out)
        return np.split(out, rows[1:-1])

    def whole(self, i: int = 0) -> np.ndarray:
        return self.attend((i, 0, len(self.sequences[i])))[0]

    def in_pieces(self, length: int, i: int = 0) -> np.ndarray:
        """Return all tokens' results, from one call for each ``length`` tokens."""
        ends = range(0, len(self.sequences[i]), length)
        return np.concatenate([self.attend((i, k, min(k + length, len(self.sequences[i]))))[0] for k in ends])


def make_case(seed, lengths, head_dim, kv_heads=1, group=1, block_size=16, window=0, magnitude=1.0):
    """Return random sequences of these lengths, their blocks scattered over a cache somewhat larger than they are."""
    rng = np.random.default_rng(seed)
    num_blocks = [-(-length // block_size) for length in lengths]
    scattered = rng.permutation(sum(num_blocks) + 3)
    caches = np.full((2, len(scattered) * block_size, kv_heads, head_dim), np.nan, np.float32)
    sequences = []
    for length, first in zip(lengths, np.cumsum([0, *num_blocks]), strict=False):
        table = scattered[first : first + -(-length // block_size)]
        keys, values = normal(rng, 2, length, kv_heads, head_dim)
        queries = normal(rng, length, kv_heads * group, head_dim) * np.float32(magnitude)
        positions = np.arange(length)
        slots = table[positions // block_size] * block_size + positions % block_size
        caches[0, slots], caches[1, slots] = keys, values
        sequences.append(Sequence(queries, keys, values, table))
    return Case(sequences, block_size, *caches, window)


def assert_attends(case: Case, first: int, result: np.ndarray, i: int = 0) -> None:
    """Compare results of a sequence's tokens from ``first`` on with the definition in float64."""
    sequence = case.sequences[i]
    group = sequence.queries.shape[1] // sequence.keys.shape[1]
    queries = sequence.queries[first : first + len(result)].astype(np.float64)
    keys, values = (np.repeat(x.astype(np.float64), group, axis=1) for x in (sequence.keys, sequence.values))
    scores = np.einsum("qhd,khd->hqk", queries, keys) * case.scaling
    distance = np.arange(first, first + len(result))[:, None] - np.arange(len(sequence))
    seen = (distance >= 0) & ((distance < case.window) | (case.window == 0))
    scores[:, ~seen] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    expected = np.einsum("hqk,khd->qhd", weights / weights.sum(axis=2, keepdims=True), values)
    # A score is a sum of head_dim products, and an error of it is one of its weight, relative to the weight's size.
    length = np.sqrt((queries**2).sum(axis=2).max() * (keys**2).sum(axis=2).max()) * float(case.scaling)
    assert_within(result, expected, 4 * EPS * (4 + length) * np.abs(values).max())


cases = st.builds(
    make_case,
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=1),
    head_dim=st.sampled_from([32, 48, 64, 80, 96, 100, 128, 256]),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 3, 5, 7]),
    block_size=st.integers(1, 32),
    window=st.sampled_from([0, 0, 1, 2, 7, 100, 1000]),
    magnitude=st.sampled_from([0.1, 1, 10]),
)


@given(cases)
@settings(max_examples=60)
def test_attention_is_the_softmax_of_float64_however_the_sequence_is_cut(case):
    whole = case.whole()
    assert_attends(case, 0, whole)
    for length in (1, 2, 5, 16):
        assert same_bits(case.in_pieces(length), whole)


@given(cases, st.lists(st.integers(1, 40), min_size=1, max_size=10))
@settings(max_examples=40)
def test_pieces_of_different_lengths_in_one_call_have_the_same_bits(case, lengths):
    end = len(case.sequences[0])
    cuts = [0, *(cut for cut in np.cumsum(lengths).tolist() if cut < end), end]
    results = case.attend(*((0, first, end) for first, end in pairwise(cuts)))
    assert same_bits(np.concatenate(results), case.whole())


@pytest.mark.parametrize("window", [0, 100])
@pytest.mark.parametrize("group", [1, 3, 5, 7])
@pytest.mark.parametrize(("length", "head_dim", "block_size"), [(3000, 64, 16), (2999, 128, 1), (1025, 256, 32)])
def test_the_last_tokens_of_a_long_sequence_have_the_same_bits_one_by_one(length, head_dim, block_size, group, window):
    case = make_case(0, [length], head_dim, group=group, block_size=block_size, window=window)
    first = length - 33
    [last] = case.attend((0, first, length))
    assert_attends(case, first, last)
    for step in (1, 2, 5, 16):
        results = [case.attend((0, k, min(k + step, length)))[0] for k in range(first, length, step)]
        assert same_bits(np.concatenate(results), last)


@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(1, 120), min_size=2, max_size=6),
    group=st.sampled_from([1, 3, 5, 7]),
    window=st.sampled_from([0, 1, 7, 100]),
    block_size=st.integers(1, 32),
    data=st.data(),
)
@settings(max_examples=40)
def test_sequences_in_one_call_are_each_as_alone(seed, lengths, group, window, block_size, data):
    case = make_case(seed, lengths, 64, kv_heads=2, group=group, window=window, block_size=block_size)
    order = data.draw(st.permutations(range(len(lengths))))
    firsts = [data.draw(st.integers(0, length - 1)) for length in lengths]
    results = case.attend(*((i, firsts[i], lengths[i]) for i in order))
    for i, result in zip(order, results, strict=True):
        assert same_bits(result, case.whole(i)[firsts[i] :])


@given(
    seed=st.integers(0, 2**32 - 1),
    num_tiles=st.integers(1, 2),
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    head_dim=st.sampled_from([32, 64, 100, 128]),
    group=st.sampled_from([1, 3, 4, 5, 7]),
    window=st.sampled_from([0, 0, 1, 70]),
    block_size=st.sampled_from([1, 16, 64]),
    data=st.data(),
)
@settings(max_examples=60)
def test_a_beginning_in_common_is_read_once_and_changes_no_bit(
    seed, num_tiles, lengths, head_dim, group, window, block_size, data
):
    common = num_tiles * TILE
    lengths = [common + length for length in lengths]
    case = make_case(seed, lengths, head_dim, kv_heads=2, group=group, window=window, block_size=block_size)
    first = case.sequences[0]
    for other in case.sequences[1:]:
        other.table[: common // block_size] = first.table[: common // block_size]
        other.keys[:common], other.values[:common] = first.keys[:common], first.values[:common]
    firsts = [data.draw(st.integers(max(common, length - 20), length - 1)) for length in lengths]
    pieces = [(i, begin, length) for i, (begin, length) in enumerate(zip(firsts, lengths, strict=True))]
    for (i, begin, _), result in zip(pieces, case.attend(*pieces, common=common), strict=True):
        assert same_bits(result, case.whole(i)[begin:])
        assert_attends(case, begin, result, i)


def test_the_place_of_blocks_and_their_size_change_no_bit():
    case = make_case(0, [75], 64, kv_heads=2, group=3)
    [sequence] = case.sequences
    for block_size in (1, 2, 7, 16, 32, 75):
        moved = make_case(block_size, [75], 64, kv_heads=2, group=3, block_size=block_size)
        [other] = moved.sequences
        slots = other.table[np.arange(75) // block_size] * block_size + np.arange(75) % block_size
        other.queries = sequence.queries
        moved.key_cache[slots], moved.value_cache[slots] = sequence.keys, sequence.values
        assert same_bits(moved.whole(), case.whole())


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("window", [0, 7])
def test_what_a_token_holds_changes_none_before_it(window, poison):
    case = make_case(0, [60], 64, group=3, window=window)
    clean = case.whole()
    for place in range(30, 50):
        slot = case.sequences[0].table[place // 16] * 16 + place % 16
        of_token = (case.key_cache[slot], case.value_cache[slot], case.sequences[0].queries[place])
        before = [x.copy() for x in of_token]
        for x in of_token:
            x[:] = poison
        result = case.whole()
        for x, was in zip(of_token, before, strict=True):
            x[:] = was
        assert same_bits(result[:place], clean[:place])
        assert np.isnan(result[place]).all()
        if window:
            assert same_bits(result[place + window :], clean[place + window :])


def test_what_one_sequence_holds_changes_no_other():
    case = make_case(0, [40, 33, 21], 64, group=3)
    pieces = [(0, 0, 40), (1, 0, 33), (2, 0, 21)]
    clean = case.attend(*pieces)
    for cache in (case.key_cache, case.value_cache):
        cache.reshape(-1, 16, *cache.shape[1:])[case.sequences[1].table] = np.nan
    result = case.attend(*pieces)
    assert same_bits(result[0], clean[0])
    assert np.isnan(result[1]).all()
    assert same_bits(result[2], clean[2])


def test_one_head_that_scores_high_leaves_the_others_weights_exact():
    case = make_case(0, [50], 64, group=5, magnitude=100)
    assert_attends(case, 0, case.whole())
    equal = make_case(0, [50], 64, group=5, magnitude=0)
    assert_attends(equal, 0, equal.whole())


def test_a_window_larger_than_the_context_is_none():
    open_case, case = make_case(0, [90], 64, group=3), make_case(0, [90], 64, group=3, window=90)
    assert same_bits(case.whole(), open_case.whole())
