"""Matrix products: ``x @ W.T``, with few rows or many."""

import numpy as np

from folovllm.kernels.compiled import kernel
from folovllm.kernels.fetch import LINE, ask_for
from folovllm.kernels.team import shares
from folovllm.kernels.tile import HEIGHT, WIDTH, tile

_COLUMNS = 96
"""Outputs of one share, a multiple of a tile's width."""

_FEW_ROWS = 8
"""As long as weights come from memory more slowly than they are multiplied, they are read row after row."""

_multiply_one, _multiply_few, _multiply_many = tile(1, 1), tile(HEIGHT, 1), tile(HEIGHT, WIDTH)


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
def multiply_few(x, weight, out, first, end):
    """Add the products of few rows with some rows of the weights: memory delivers best what lies side by side."""
    for n in range(first, end):
        if len(x) == 1:
            _multiply_one(x, weight, out, 0, n)
        else:
            for m in range(0, len(x), HEIGHT):
                _multiply_few(x, weight, out, m, n)


@kernel
def multiply_many(x, weight, out, first, end):
    """Add the products of many rows: meanwhile, a part of the weights of the next tiles comes from memory."""
    numbers, num_tiles = weight.reshape(-1), (len(x) + HEIGHT - 1) // HEIGHT
    part = (WIDTH * weight.shape[1] // num_tiles + LINE - 1) // LINE * LINE
    for n in range(first, end, WIDTH):
        following = (n + WIDTH) * weight.shape[1]
        for m in range(0, len(x), HEIGHT):
            for i in range(following, min(following + part, len(numbers)), LINE):
                ask_for(numbers, i)
            following += part
            _multiply_many(x, weight, out, m, n)


@kernel
def linear(team, x, weight, bias, out, add):
    """``out = x @ weight.T + bias``, or with ``add`` that much more than it was.

    x: [num_rows, in].  weight: [out, in].  bias: [out], or [0] for none.  out: [num_rows, out].
    """
    for share in shares(team, (len(weight) + _COLUMNS - 1) // _COLUMNS):
        first, end = share * _COLUMNS, min(len(weight), (share + 1) * _COLUMNS)
        begin(out, first, end, bias, add)
        if len(x) <= _FEW_ROWS:
            multiply_few(x, weight, out, first, end)
        else:
            multiply_many(x, weight, out, first, end)
