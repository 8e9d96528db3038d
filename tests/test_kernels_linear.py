"""Matrix products are those of float64 up to rounding, and a row's has the same bits in any batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError

from folovllm.kernels.linear import linear
from folovllm.kernels.tile import tile
from tests.kernel_arrays import EPS, assert_within, normal, one_thread, same_bits

NO_BIAS = np.empty(0, np.float32)
SIZES = [(1, 1), (2, 5), (3, 3), (7, 1), (1, 7), (15, 49), (16, 48), (17, 47), (63, 65), (64, 97), (129, 2), (199, 101)]


def product(x: np.ndarray, weight: np.ndarray, bias: np.ndarray = NO_BIAS, before: np.ndarray | None = None):
    """Return ``x @ weight.T + bias``, added to ``before`` if there is one."""
    out = np.full((len(x), len(weight)), np.nan, np.float32) if before is None else before.copy()
    linear(one_thread(), x, weight, bias, out, before is not None)
    return out


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 70), size_in=st.integers(1, 200),
       size_out=st.integers(1, 200), has_bias=st.booleans(), adds=st.booleans())  # fmt: skip
@settings(max_examples=150)
def test_products_are_those_of_float64(seed, rows, size_in, size_out, has_bias, adds):
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, size_in), normal(rng, size_out, size_in)
    bias = normal(rng, size_out) if has_bias else NO_BIAS
    before = normal(rng, rows, size_out) if adds else None
    exact_x, exact_weight = x.astype(np.float64), weight.astype(np.float64)
    expected = exact_x @ exact_weight.T
    length = np.sqrt(exact_x**2 @ exact_weight.T**2)  # the size of a sum of so many numbers with random signs
    for term in (bias if has_bias else None, before):
        if term is not None:
            expected = expected + term
            length = length + np.abs(term)
    assert_within(product(x, weight, bias, before), expected, (2 + 2 * np.sqrt(size_in)) * EPS * length)


@pytest.mark.parametrize("magnitude", [1e-15, 1e15])
def test_products_of_tiny_and_huge_numbers_are_as_exact(magnitude):
    rng = np.random.default_rng(0)
    x, weight = normal(rng, 5, 100) * np.float32(magnitude), normal(rng, 50, 100) * np.float32(magnitude)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    assert_within(product(x, weight), expected, 100 * EPS * magnitude**2)


@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(size_in, size_out):
    rng = np.random.default_rng(0)
    x, weight, bias = normal(rng, 70, size_in), normal(rng, size_out, size_in), normal(rng, size_out)
    before = normal(rng, 70, size_out)
    alone = np.concatenate([product(x[i : i + 1], weight, bias) for i in range(70)])
    alone_added = np.concatenate([product(x[i : i + 1], weight, bias, before[i : i + 1]) for i in range(70)])
    for rows in range(2, 71):
        assert same_bits(product(x[:rows], weight, bias), alone[:rows])
        assert same_bits(product(x[:rows], weight, bias, before[:rows]), alone_added[:rows])


@pytest.mark.parametrize(("height", "width"), [(4, 1), (4, 3), (4, 6)])
def test_tiles_of_all_shapes_add_in_one_order_those_for_other_processors_too(height, width):
    rng = np.random.default_rng(0)
    x, weight = normal(rng, 6, 53), normal(rng, 8, 53)
    one, several = np.zeros((2, 6, 8), np.float32)
    add_one, add_several = tile(1, 1), tile(height, width)
    for m, n in np.ndindex(one.shape):
        add_one(x, weight, one, m, n)
    for m in range(0, 6, height):
        for n in range(0, 8, width):
            add_several(x, weight, several, m, n)
    assert same_bits(one, several)
    assert_within(one, x.astype(np.float64) @ weight.T.astype(np.float64), 100 * EPS)


@given(seed=st.integers(0, 2**32 - 1), size_in=st.integers(1, 200), size_out=st.integers(1, 200),
       has_bias=st.booleans(), places=st.lists(st.integers(0, 39), min_size=1, max_size=70))  # fmt: skip
@settings(max_examples=60)
def test_a_row_has_the_same_bits_at_any_place_beside_any_other(seed, size_in, size_out, has_bias, places):
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, 40, size_in), normal(rng, size_out, size_in)
    bias = normal(rng, size_out) if has_bias else NO_BIAS
    alone = np.concatenate([product(x[i : i + 1], weight, bias) for i in range(40)])
    assert same_bits(product(x[places], weight, bias), alone[places])


@given(seed=st.integers(0, 2**32 - 1), size_in=st.integers(1, 200), size_out=st.integers(1, 200))
@settings(max_examples=40)
def test_a_column_has_the_same_bits_whatever_weights_stand_beside_it(seed, size_in, size_out):
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, 6, size_in), normal(rng, size_out, size_in)
    whole = product(x, weight)
    for i in range(0, size_out, 11):
        assert same_bits(product(x, weight[i : i + 1]), np.ascontiguousarray(whole[:, i : i + 1]))


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 20), size_in=st.integers(1, 100),
       size_out=st.integers(1, 60), poison=st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))  # fmt: skip
@settings(max_examples=40)
def test_nan_and_infinity_stay_in_their_row(seed, rows, size_in, size_out, poison):
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, size_in), normal(rng, size_out, size_in)
    clean = product(x, weight)
    place = rng.integers(rows)
    x[place] = poison
    result = product(x, weight)
    assert same_bits(np.delete(result, place, axis=0), np.delete(clean, place, axis=0))
    if np.isnan(poison):
        assert np.isnan(result[place]).all()


def test_an_infinite_input_is_seen_in_the_product():
    x, weight = np.ones((1, 9), np.float32), np.ones((2, 9), np.float32)
    x[0, 4], weight[1, 4] = np.inf, -1
    assert product(x, weight).tolist() == [[np.inf, -np.inf]]


def test_no_rows_are_no_work():
    assert product(np.empty((0, 5), np.float32), np.ones((7, 5), np.float32)).shape == (0, 7)


def test_numbers_that_do_not_lie_side_by_side_are_refused():
    with pytest.raises(TypingError, match="not of contiguous float32 matrices"):
        product(np.ones((2, 10), np.float32)[:, ::2], np.ones((7, 5), np.float32))
