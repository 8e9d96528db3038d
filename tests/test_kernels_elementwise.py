"""Norms, activations, rotations and rows looked up are what their formulas say, in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm.kernels.compiled import kernel
from folovllm.kernels.elementwise import exp, find_angles, rms_norm, rotate_and_store, silu_mul, take_rows
from tests.kernel_arrays import EPS, assert_within, normal, one_thread, same_bits

seeds = st.integers(0, 2**32 - 1)
widths = st.one_of(st.integers(1, 40), st.integers(41, 600))
num_rows = st.integers(1, 20)


@kernel
def exp_of_each(x, out):
    for i in range(len(x)):
        out[i] = exp(x[i])


def exp_of(x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    exp_of_each(x, out)
    return out


def assert_exp_is_close(x: np.ndarray) -> None:
    exact = np.exp(x.astype(np.float64))
    assert_within(exp_of(x) / exact, np.ones(len(x)), 3e-7)


def test_exp_is_within_its_bound_on_its_whole_range():
    assert_exp_is_close(np.linspace(-87, 88, 2_000_003).astype(np.float32))


def test_exp_is_within_its_bound_around_zero():
    tiny = np.logspace(-45, 0, 10_001).astype(np.float32)
    assert_exp_is_close(np.concatenate([tiny, -tiny, np.zeros(1, np.float32)]))


def test_exp_is_within_its_bound_where_the_power_of_two_changes():
    halves = ((np.arange(-125, 127) + 0.5) * np.log(2)).astype(np.float32)
    near = halves[:, None].view(np.int32) + np.arange(-50, 51, dtype=np.int32)
    assert_exp_is_close(near.view(np.float32).ravel())


def test_exp_of_one_number_is_that_of_the_number_in_any_place():
    x = np.linspace(-87, 88, 1001).astype(np.float32)
    assert same_bits(np.concatenate([exp_of(x[i : i + 1]) for i in range(len(x))]), exp_of(x))


def test_exp_beyond_its_range_is_its_value_at_the_end():
    x = np.array([-87, -87.001, -1e4, -3e38, -np.inf, 88, 88.001, 1e4, 3e38, np.inf], np.float32)
    result = exp_of(x)
    assert (result[:5] == result[0]).all()
    assert (result[5:] == result[5]).all()


def test_exp_of_zero_is_one_and_of_nan_is_nan():
    result = exp_of(np.array([0, -0.0, np.nan, 1], np.float32))
    assert result[0] == result[1] == 1
    assert np.isnan(result[2])
    assert not np.isnan(result[3])


@given(seed=seeds, rows=num_rows, width=widths, magnitude=st.sampled_from([1e-12, 1e-4, 1, 1e4, 1e15]),
       eps=st.sampled_from([1e-12, 1e-6, 1e-5, 0.1]), in_place=st.booleans())  # fmt: skip
@settings(max_examples=60)
def test_rms_norm_is_its_formula(seed, rows, width, magnitude, eps, in_place):
    rng = np.random.default_rng(seed)
    x, weight = normal(rng, rows, width) * np.float32(magnitude), normal(rng, width)
    exact = x.astype(np.float64)
    exact = exact / np.sqrt((exact**2).mean(axis=1, keepdims=True) + np.float32(eps)) * weight
    out = x if in_place else np.full_like(x, np.nan)
    rms_norm(one_thread(), x, weight, np.float32(eps), out)
    assert_within(out, exact, (4 + np.sqrt(width)) * EPS * np.abs(exact) + 1e-37)


def test_rms_norm_of_a_row_has_the_same_bits_in_any_batch_and_in_place():
    rng = np.random.default_rng(0)
    for width in (1, 7, 16, 33, 64, 257, 576):
        x, weight = normal(rng, 19, width), normal(rng, width)
        whole = np.empty_like(x)
        rms_norm(one_thread(), x, weight, np.float32(1e-5), whole)
        for i in range(len(x)):
            alone = x[i : i + 1].copy()
            rms_norm(one_thread(), alone, weight, np.float32(1e-5), alone)
            assert same_bits(alone[0], whole[i])


def test_a_row_of_nan_is_normalized_alone():
    x = normal(np.random.default_rng(0), 11, 50)
    x[3], x[7, 5] = np.nan, np.inf
    out = np.empty_like(x)
    rms_norm(one_thread(), x, np.ones(50, np.float32), np.float32(1e-5), out)
    assert np.isnan(out[3]).all()
    assert np.isnan(out[7, 5])
    assert np.isfinite(np.delete(out, [3, 7], axis=0)).all()


@given(seed=seeds, rows=num_rows, width=widths, magnitude=st.sampled_from([1e-20, 1e-3, 1, 10, 80, 1e4]))
@settings(max_examples=60)
def test_silu_mul_is_its_formula(seed, rows, width, magnitude):
    rng = np.random.default_rng(seed)
    gate, up = normal(rng, rows, width) * np.float32(magnitude), normal(rng, rows, width)
    exact = gate.astype(np.float64)
    exact = exact / (1 + np.exp(np.minimum(-exact, 700))) * up
    up_before = up.copy()
    silu_mul(one_thread(), gate, up)
    assert_within(gate, exact, 8 * EPS * np.abs(exact) + 1e-33)
    assert same_bits(up, up_before)


def test_silu_mul_of_a_row_has_the_same_bits_in_any_batch():
    rng = np.random.default_rng(0)
    for width in (1, 7, 16, 33, 257):
        gate, up = normal(rng, 19, width), normal(rng, 19, width)
        whole = gate.copy()
        silu_mul(one_thread(), whole, up)
        for i in range(len(gate)):
            alone = gate[i : i + 1].copy()
            silu_mul(one_thread(), alone, up[i : i + 1].copy())
            assert same_bits(alone[0], whole[i])


@given(seed=seeds, rows=st.integers(0, 40), width=widths)
@settings(max_examples=40)
def test_take_rows_copies_the_rows_asked_for(seed, rows, width):
    rng = np.random.default_rng(seed)
    source, wanted = normal(rng, 30, width), rng.integers(0, 30, rows)
    source[4] = np.nan
    out = np.empty((rows, width), np.float32)
    take_rows(one_thread(), source, wanted, out)
    assert same_bits(out, source[wanted])


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("head_dim", [2, 32, 64, 80, 256])
def test_angles_are_the_cosine_and_sine_of_position_times_frequency(head_dim, theta):
    rng = np.random.default_rng(0)
    positions = np.concatenate([np.arange(20), rng.integers(0, 131_072, 80)])
    frequencies = (theta ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    cos, sin = np.empty((2, len(positions), head_dim // 2), np.float32)
    find_angles(one_thread(), positions, frequencies, np.float32(1.25), cos, sin)
    # The angle is rounded to float32, as in HuggingFace's: at position 100,000 that alone is .004.
    angles = (positions.astype(np.float32)[:, None] * frequencies).astype(np.float64)
    assert_within(cos, np.cos(angles) * 1.25, 2 * EPS)
    assert_within(sin, np.sin(angles) * 1.25, 2 * EPS)


def rotate_half(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return the heads turned, as multiplication by e^(i * angle) of numbers with halves as real and imaginary part."""
    half = x.shape[-1] // 2
    turned = (x[..., :half] + 1j * x[..., half:].astype(np.float64)) * np.exp(1j * angles)[:, None]
    return np.concatenate([turned.real, turned.imag], axis=-1)


@given(seed=seeds, tokens=num_rows, kv_heads=st.integers(1, 4), group=st.sampled_from([1, 3, 5, 7]),
       half=st.sampled_from([1, 5, 16, 32, 40, 128]), magnitude=st.sampled_from([1e-10, 1, 1e10]))  # fmt: skip
@settings(max_examples=40)
def test_queries_are_turned_in_place_and_keys_on_their_way_into_the_cache(
    seed, tokens, kv_heads, group, half, magnitude
):
    rng = np.random.default_rng(seed)
    queries = normal(rng, tokens, kv_heads * group, 2 * half) * np.float32(magnitude)
    keys, values = normal(rng, 2, tokens, kv_heads, 2 * half) * np.float32(magnitude)
    angles = rng.uniform(0, 7, (tokens, half))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    slots = rng.permutation(50)[:tokens]
    key_cache, value_cache = np.full((2, 50, kv_heads, 2 * half), np.nan, np.float32)
    queries_before, keys_before = queries.copy(), keys.copy()
    rotate_and_store(one_thread(), queries, keys, values, cos, sin, slots, key_cache, value_cache)

    bound = 8 * EPS * np.abs(queries_before).max()
    assert_within(queries, rotate_half(queries_before, angles), bound)
    assert_within(key_cache[slots], rotate_half(keys, angles), 8 * EPS * np.abs(keys).max())
    assert same_bits(value_cache[slots], values)
    assert same_bits(keys, keys_before)
    others = np.delete(np.arange(50), slots)
    assert np.isnan(key_cache[others]).all()
    assert np.isnan(value_cache[others]).all()
