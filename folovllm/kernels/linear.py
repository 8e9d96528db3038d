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
def linear(team, x, weight, bias, out, add):
    """``out = x @ weight.T + bias``, or with ``add`` that much more than it was.

    x: [num_rows, in].  weight: [out, in].  bias: [out], or [0] for none.  out: [num_rows, out].
    Rows that four or three are short of are stood in for by the last one, and the results dropped.
    """
    num_rows, num_columns = len(x), len(weight)
    last_row, last_column = num_rows - 1, num_columns - 1
    for share in shares(team, (num_columns + _COLUMNS - 1) // _COLUMNS):
        for m in range(0, num_rows, 4):
            x0, x1, x2, x3 = x[m], x[min(m + 1, last_row)], x[min(m + 2, last_row)], x[min(m + 3, last_row)]
            for n in range(share * _COLUMNS, min(num_columns, (share + 1) * _COLUMNS), 3):
                w0, w1, w2 = weight[n], weight[min(n + 1, last_column)], weight[min(n + 2, last_column)]
                sums = sums_4_by_3(x0, x1, x2, x3, w0, w1, w2)
                for i in range(min(4, num_rows - m)):
                    for j in range(min(3, num_columns - n)):
                        value = sums[3 * i + j]
                        if len(bias) > 0:
                            value += bias[n + j]
                        if add:
                            value += out[m + i, n + j]
                        out[m + i, n + j] = value
