"""Matrix products: ``x @ W.T``, with few rows or many.

They are computed in tiles of a few rows of x and of W: what is read once serves several products. A tile is as large as
its sums fit into the registers of the CPU: 12 of them into the 16 of AVX2, 24 into the 32 of AVX-512 or ARM, where the
larger tile is a quarter faster; with 16 registers it would be a third slower.
"""

import platform

import numpy as np
from llvmlite import binding

from folovllm.kernels.compiled import kernel
from folovllm.kernels.team import shares

_COLUMNS = 48
"""Outputs of one share. So many rows of a weight stay in a core's cache while the rows of x pass by."""

_HAS_32_REGISTERS = platform.machine() in ("arm64", "aarch64") or binding.get_host_cpu_features().get("avx512f", False)


@kernel
def pick_4(x, m):
    """Return four rows from ``m`` on; the last one stands in for those that are missing."""
    last = len(x) - 1
    return x[m], x[min(m + 1, last)], x[min(m + 2, last)], x[min(m + 3, last)]


@kernel
def pick_3(x, m):
    """Return three rows likewise."""
    last = len(x) - 1
    return x[m], x[min(m + 1, last)], x[min(m + 2, last)]


@kernel
def pick_6(x, m):
    """Return six rows likewise."""
    last = len(x) - 1
    return (*pick_4(x, m), x[min(m + 4, last)], x[min(m + 5, last)])


@kernel
def add_3(out, m, n, a, b, c):
    """Add three sums to a row of the result, if there is such a row, as far as it has columns from ``n`` on."""
    if m < len(out):
        row = out[m]
        row[n] += a
        if n + 1 < len(row):
            row[n + 1] += b
        if n + 2 < len(row):
            row[n + 2] += c


@kernel
def add_4(out, m, n, a, b, c, d):
    """Add four sums likewise."""
    if m < len(out) and n + 3 < len(out[m]):
        row = out[m]
        row[n], row[n + 1], row[n + 2], row[n + 3] = row[n] + a, row[n + 1] + b, row[n + 2] + c, row[n + 3] + d
    else:
        add_3(out, m, n, a, b, c)


@kernel
def multiply_4_by_3(x, m, weight, n, out):
    """Add the products of four rows of x with three of the weight: seven numbers are read for twelve products.

    Each sum is its own, so it is the same to the last bit whatever the other rows hold.
    """
    x0, x1, x2, x3 = pick_4(x, m)
    w0, w1, w2 = pick_3(weight, n)
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
def multiply_6_by_4(x, m, weight, n, out):
    """Add the products of six rows of x with four of the weight: ten numbers are read for 24 products."""
    x0, x1, x2, x3, x4, x5 = pick_6(x, m)
    w0, w1, w2, w3 = pick_4(weight, n)
    a0 = a1 = a2 = a3 = np.float32(0)
    b0 = b1 = b2 = b3 = np.float32(0)
    c0 = c1 = c2 = c3 = np.float32(0)
    d0 = d1 = d2 = d3 = np.float32(0)
    e0 = e1 = e2 = e3 = np.float32(0)
    f0 = f1 = f2 = f3 = np.float32(0)
    for k in range(len(x0)):
        s, t, u, v = w0[k], w1[k], w2[k], w3[k]
        y = x0[k]
        a0 += y * s
        a1 += y * t
        a2 += y * u
        a3 += y * v
        y = x1[k]
        b0 += y * s
        b1 += y * t
        b2 += y * u
        b3 += y * v
        y = x2[k]
        c0 += y * s
        c1 += y * t
        c2 += y * u
        c3 += y * v
        y = x3[k]
        d0 += y * s
        d1 += y * t
        d2 += y * u
        d3 += y * v
        y = x4[k]
        e0 += y * s
        e1 += y * t
        e2 += y * u
        e3 += y * v
        y = x5[k]
        f0 += y * s
        f1 += y * t
        f2 += y * u
        f3 += y * v
    add_4(out, m, n, a0, a1, a2, a3)
    add_4(out, m + 1, n, b0, b1, b2, b3)
    add_4(out, m + 2, n, c0, c1, c2, c3)
    add_4(out, m + 3, n, d0, d1, d2, d3)
    add_4(out, m + 4, n, e0, e1, e2, e3)
    add_4(out, m + 5, n, f0, f1, f2, f3)


_ROWS, _WIDTH, _multiply = (6, 4, multiply_6_by_4) if _HAS_32_REGISTERS else (4, 3, multiply_4_by_3)


@kernel
def begin(out, first, end, bias, add):
    """Begin some columns of the result: with their biases, if there are any, on top of what is there or of nothing."""
    for m in range(len(out)):
        row = out[m]
        if not add:
            row[first:end] = np.float32(0)
        if len(bias) > 0:
            for n in range(first, end):
                row[n] += bias[n]


@kernel
def linear(team, x, weight, bias, out, add):
    """``out = x @ weight.T + bias``, or with ``add`` that much more than it was.

    x: [num_rows, in].  weight: [out, in].  bias: [out], or [0] for none.  out: [num_rows, out].
    """
    for share in shares(team, (len(weight) + _COLUMNS - 1) // _COLUMNS):
        first, end = share * _COLUMNS, min(len(weight), (share + 1) * _COLUMNS)
        begin(out, first, end, bias, add)
        for m in range(0, len(x), _ROWS):
            for n in range(first, end, _WIDTH):
                _multiply(x, m, weight, n, out)
