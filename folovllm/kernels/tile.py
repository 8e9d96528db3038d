"""Products of a few rows with a few others: the sums that matrix products and attention's scores are made of.

They are computed a tile at a time, so that what is read once serves several products. A tile has four rows of one side
and, of the other, as many as its sums fit into the registers of the CPU: 12 sums into the 16 of AVX2, 24 into the 32 of
AVX-512 or ARM.
"""

import platform

import numpy as np
from llvmlite import binding

from folovllm.kernels.compiled import kernel

_HAS_32_REGISTERS = platform.machine() in ("arm64", "aarch64") or binding.get_host_cpu_features().get("avx512f", False)

HEIGHT, WIDTH = 4, 6 if _HAS_32_REGISTERS else 3
"""How many rows of either side a tile has."""


@kernel
def pick_3(matrix, first):
    """Return three rows of a matrix from ``first`` on; the last one stands in for those that are missing."""
    last = len(matrix) - 1
    return matrix[min(first, last)], matrix[min(first + 1, last)], matrix[min(first + 2, last)]


@kernel
def pick_4(matrix, first):
    """Return four rows likewise."""
    return (*pick_3(matrix, first), matrix[min(first + 3, len(matrix) - 1)])


@kernel
def pick_6(matrix, first):
    """Return six rows likewise."""
    return (*pick_3(matrix, first), *pick_3(matrix, first + 3))


@kernel
def add_3(out, m, n, a, b, c):
    """Add three sums to a row of the result, if there is such a row, as far as it has columns from ``n`` on."""
    if m < len(out):
        row = out[m]
        if n < len(row):
            row[n] += a
        if n + 1 < len(row):
            row[n + 1] += b
        if n + 2 < len(row):
            row[n + 2] += c


@kernel
def multiply_4_by_3(x_rows, weight_rows, out, m, n):
    """Add the products of four rows of x with three of a weight to ``out[m:, n:]``: 7 numbers are read for 12 products.

    Each sum is its own, so it is the same to the last bit whatever the other rows hold.
    """
    x0, x1, x2, x3 = x_rows
    w0, w1, w2 = weight_rows
    a0 = a1 = a2 = np.float32(0)
    b0 = b1 = b2 = np.float32(0)
    c0 = c1 = c2 = np.float32(0)
    d0 = d1 = d2 = np.float32(0)
    for k in range(len(x0)):
        s, t, u = w0[k], w1[k], w2[k]
        y = x0[k]
        a0 += y * s
        a1 += y * t
        a2 += y * u
        y = x1[k]
        b0 += y * s
        b1 += y * t
        b2 += y * u
        y = x2[k]
        c0 += y * s
        c1 += y * t
        c2 += y * u
        y = x3[k]
        d0 += y * s
        d1 += y * t
        d2 += y * u
    add_3(out, m, n, a0, a1, a2)
    add_3(out, m + 1, n, b0, b1, b2)
    add_3(out, m + 2, n, c0, c1, c2)
    add_3(out, m + 3, n, d0, d1, d2)


@kernel
def multiply_4_by_6(x_rows, weight_rows, out, m, n):
    """Add the products with six rows of a weight likewise: 10 numbers are read for 24 products."""
    x0, x1, x2, x3 = x_rows
    w0, w1, w2, w3, w4, w5 = weight_rows
    a0 = a1 = a2 = a3 = a4 = a5 = np.float32(0)
    b0 = b1 = b2 = b3 = b4 = b5 = np.float32(0)
    c0 = c1 = c2 = c3 = c4 = c5 = np.float32(0)
    d0 = d1 = d2 = d3 = d4 = d5 = np.float32(0)
    for k in range(len(x0)):
        p, q, r, s, t, u = w0[k], w1[k], w2[k], w3[k], w4[k], w5[k]
        y = x0[k]
        a0 += y * p
        a1 += y * q
        a2 += y * r
        a3 += y * s
        a4 += y * t
        a5 += y * u
        y = x1[k]
        b0 += y * p
        b1 += y * q
        b2 += y * r
        b3 += y * s
        b4 += y * t
        b5 += y * u
        y = x2[k]
        c0 += y * p
        c1 += y * q
        c2 += y * r
        c3 += y * s
        c4 += y * t
        c5 += y * u
        y = x3[k]
        d0 += y * p
        d1 += y * q
        d2 += y * r
        d3 += y * s
        d4 += y * t
        d5 += y * u
    add_3(out, m, n, a0, a1, a2)
    add_3(out, m, n + 3, a3, a4, a5)
    add_3(out, m + 1, n, b0, b1, b2)
    add_3(out, m + 1, n + 3, b3, b4, b5)
    add_3(out, m + 2, n, c0, c1, c2)
    add_3(out, m + 2, n + 3, c3, c4, c5)
    add_3(out, m + 3, n, d0, d1, d2)
    add_3(out, m + 3, n + 3, d3, d4, d5)


pick_wide, multiply = (pick_6, multiply_4_by_6) if _HAS_32_REGISTERS else (pick_3, multiply_4_by_3)
