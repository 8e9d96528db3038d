"""What lies between matrix products: norms, rotations, activations, and looking rows up."""

import numpy as np

from folovllm.kernels.compiled import exact_order, kernel
from folovllm.kernels.team import shares

_ROWS = 8
"""Rows of one share."""

_LOG2_E = np.float32(1.4426950408889634)
_LN_2_HIGH, _LN_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
"""Their sum is ln(2); the first has so few digits that a whole number times it is exact."""


@exact_order
def exp(x):
    """Return e^x for a float32, within 2e-7 of it relative to its size; outside [-87, 88] the value at that end.

    e^x = 2^n * e^r with a whole n and |r| <= ln(2) / 2: the first is a float's exponent, the second a polynomial.
    (np.exp is a call for one number, which keeps a loop from using vectors.)
    """
    if x < np.float32(-87):
        x = np.float32(-87)
    if x > np.float32(88):
        x = np.float32(88)
    n = np.floor(x * _LOG2_E + np.float32(0.5))
    r = x - n * _LN_2_HIGH - n * _LN_2_LOW
    p = np.float32(1 / 5040)
    p = p * r + np.float32(1 / 720)
    p = p * r + np.float32(1 / 120)
    p = p * r + np.float32(1 / 24)
    p = p * r + np.float32(1 / 6)
    p = p * r + np.float32(1 / 2)
    p = p * r + np.float32(1)
    p = p * r + np.float32(1)
    return p * np.int32((np.int32(n) + 127) << 23).view(np.float32)


@kernel
def rows(team, count):
    """Yield numbers from 0 to ``count`` - 1 by shares of ``_ROWS``, each to one thread of the team."""
    for share in shares(team, (count + _ROWS - 1) // _ROWS):
        for i in range(share * _ROWS, min(count, (share + 1) * _ROWS)):  # noqa: UP028 - numba knows no "yield from"
            yield i


@kernel
def take_rows(team, source, places, out):
    """``out[i] = source[places[i]]``.  source: [any, width].  places: [n].  out: [n, width]."""
    for i in rows(team, len(places)):
        row, result = source[places[i]], out[i]
        for d in range(len(row)):
            result[d] = row[d]


@kernel
def rms_norm(team, x, weight, eps, out):
    """``x / sqrt(mean(x^2) + eps) * weight``, row by row (Zhang & Sennrich 2019, arXiv:1910.07467).

    x, out: [n, width], which may be the same.  weight: [width].
    """
    for i in rows(team, len(x)):
        row, result = x[i], out[i]
        squares = np.float32(0)
        for d in range(len(row)):
            squares += row[d] * row[d]
        scale = np.float32(1) / np.sqrt(squares / np.float32(len(row)) + eps)
        for d in range(len(row)):
            result[d] = row[d] * scale * weight[d]


@kernel
def silu_mul(team, gate, up):
    """``gate = gate / (1 + e^-gate) * up``, in place.  gate, up: [n, width] (Shazeer 2020, arXiv:2002.05202)."""
    for i in rows(team, len(gate)):
        g, u = gate[i], up[i]
        for d in range(len(g)):
            g[d] = g[d] / (np.float32(1) + exp(-g[d])) * u[d]


@kernel
def find_angles(team, positions, frequencies, scale, cos, sin):
    """Fill in the cosine and sine of every position times every frequency, times ``scale``.

    positions: [n].  frequencies: [head_dim / 2].  cos, sin: [n, head_dim / 2].
    """
    for i in rows(team, len(positions)):
        position = np.float32(positions[i])
        for d in range(len(frequencies)):
            angle = position * frequencies[d]
            cos[i, d] = np.cos(angle) * scale
            sin[i, d] = np.sin(angle) * scale


@kernel
def rotate(head, cos, sin, out):
    """Turn the pairs (d, d + head_dim / 2) of one head by their angles (Su et al. 2021, arXiv:2104.09864).

    head, out: [head_dim], which may be the same.  cos, sin: [head_dim / 2].
    """
    half = len(cos)
    for d in range(half):
        x, y = head[d], head[d + half]
        out[d] = x * cos[d] - y * sin[d]
        out[d + half] = y * cos[d] + x * sin[d]


@kernel
def rotate_and_store(team, queries, keys, values, cos, sin, slots, key_cache, value_cache):
    """Turn queries in place; turn keys on their way into the cache, where values go as they are.

    queries: [n, num_heads, head_dim].  keys, values: [n, num_kv_heads, head_dim].  slots: [n], places in the caches,
    which are [num_slots, num_kv_heads, head_dim].
    """
    for i in rows(team, len(slots)):
        for h in range(queries.shape[1]):
            rotate(queries[i, h], cos[i], sin[i], queries[i, h])
        for h in range(keys.shape[1]):
            rotate(keys[i, h], cos[i], sin[i], key_cache[slots[i], h])
            value, kept = values[i, h], value_cache[slots[i], h]
            for d in range(len(value)):
                kept[d] = value[d]
