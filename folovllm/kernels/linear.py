"""Matrix products: ``x @ W.T``, with few rows or many."""

import numpy as np

from folovllm.kernels.compiled import kernel
from folovllm.kernels.fetch import LINE, ask_for
from folovllm.kernels.team import shares
from folovllm.kernels.tile import HEIGHT, WIDTH, multiply, pick_4, pick_wide

_COLUMNS = 96
"""Outputs of one share, a multiple of a tile's width."""

_TILES_TO_ASK = 4
"""With fewer tiles of rows, most time goes to reading weights as fast as they come: asking only delays it."""


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

    While a tile is multiplied, a part of the weights of the next ones comes from memory.
    """
    numbers, num_tiles = weight.reshape(-1), (len(x) + HEIGHT - 1) // HEIGHT
    part = 0
    if num_tiles >= _TILES_TO_ASK:
        part = (WIDTH * weight.shape[1] // num_tiles + LINE - 1) // LINE * LINE
    for share in shares(team, (len(weight) + _COLUMNS - 1) // _COLUMNS):
        first, end = share * _COLUMNS, min(len(weight), (share + 1) * _COLUMNS)
        begin(out, first, end, bias, add)
        for n in range(first, end, WIDTH):
            following = (n + WIDTH) * weight.shape[1]
            for m in range(0, len(x), HEIGHT):
                for i in range(following, min(following + part, len(numbers)), LINE):
                    ask_for(numbers, i)
                following += part
                multiply(pick_4(x, m), pick_wide(weight, n), out, m, n)
