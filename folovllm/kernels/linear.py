"""Matrix products: ``x @ W.T``, with few rows or many."""

import numpy as np

from folovllm.kernels.compiled import kernel
from folovllm.kernels.team import shares

_COLUMNS = 48
"""Outputs of one share. So many rows of a weight stay in a core's cache while the rows of x pass by."""


@kernel
def sums_4_by_3(x0, x1, x2, x3, w0, w1, w2):
    """Return the twelve sums of products of four rows with three, all of one length.

    Seven numbers are read for twelve products, and twelve sums and what they need just fit into the registers of a CPU.
    Each sum is its own, so it is the same to the last bit whatever the other rows hold.
    """
    zero = np.float32(0)
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = d0 = d1 = d2 = zero
    for k in range(len(x0)):
        a, b, c, d = x0[k], x1[k], x2[k], x3[k]
        u, v, w = w0[k], w1[k], w2[k]
        a0 += a * u
        a1 += a * v
        a2 += a * w
        b0 += b * u
        b1 += b * v
        b2 += b * w
        c0 += c * u
        c1 += c * v
        c2 += c * w
        d0 += d * u
        d1 += d * v
        d2 += d * w
    return a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2


@kernel
def add_three(row, n, a, b, c):
    """Add three sums to a row of the result, as far as it has columns from ``n`` on."""
    row[n] += a
    if n + 1 < len(row):
        row[n + 1] += b
    if n + 2 < len(row):
        row[n + 2] += c


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
    Rows that four or three are short of are stood in for by the last one, and the results dropped.
    """
    last, last_column = len(x) - 1, len(weight) - 1
    for share in shares(team, (len(weight) + _COLUMNS - 1) // _COLUMNS):
        first, end = share * _COLUMNS, min(len(weight), (share + 1) * _COLUMNS)
        begin(out, first, end, bias, add)
        for m in range(0, len(x), 4):
            x0, x1, x2, x3 = x[m], x[min(m + 1, last)], x[min(m + 2, last)], x[min(m + 3, last)]
            for n in range(first, end, 3):
                w0, w1, w2 = weight[n], weight[min(n + 1, last_column)], weight[min(n + 2, last_column)]
                a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2 = sums_4_by_3(x0, x1, x2, x3, w0, w1, w2)
                add_three(out[m], n, a0, a1, a2)
                if m + 1 <= last:
                    add_three(out[m + 1], n, b0, b1, b2)
                if m + 2 <= last:
                    add_three(out[m + 2], n, c0, c1, c2)
                if m + 3 <= last:
                    add_three(out[m + 3], n, d0, d1, d2)
