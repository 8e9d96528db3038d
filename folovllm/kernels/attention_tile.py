"""What attention does with a tile: 64 tokens of a sequence, whose keys and values are fetched from the KV cache.

Queries times keys, and weights times values, are both sums of rows times numbers, so both are :func:`add_products`,
four rows and four sums at a time.
"""

from typing import Any, NamedTuple

import numpy as np

from folovllm.kernels.compiled import exact_order, kernel
from folovllm.kernels.elementwise import exp
from folovllm.kernels.fetch import LINE, ask_for, copy_line
from folovllm.kernels.square import SIDE, turn_square

TILE = 64
"""So many tokens are looked at together, and so many numbers of a value."""

_AHEAD = 16
"""Keys and values are asked for so many tokens before they are needed."""


class Columns(NamedTuple):
    """One head's keys or values in the KV cache: all numbers, flat, how many a slot has, where the head's begin."""

    numbers: Any
    stride: Any
    first: Any


@kernel
def columns_of(part, head):
    """Return the columns of one head.  part: keys or values, [num_slots, num_kv_heads, head_dim]."""
    num_kv_heads, head_dim = part.shape[1:]
    return Columns(part.reshape(-1), num_kv_heads * head_dim, head * head_dim)


@kernel
def turn_keys(keys, slots, head_dim, turned):
    """``turned[d, j] = keys[slots[j], d]`` for a tile.  turned: flat, [head_dim, TILE]."""
    squares = head_dim // SIDE * SIDE
    for j in range(0, TILE, SIDE):
        for i in range(j + _AHEAD, min(j + _AHEAD + SIDE, len(slots))):
            for d in range(0, head_dim, LINE):
                ask_for(keys.numbers, slots[i] * keys.stride + keys.first + d)
        for d in range(0, squares, SIDE):
            turn_square(keys.numbers, slots, j, keys.stride, keys.first + d, turned, d * TILE + j, TILE)
    for d in range(squares, head_dim):
        for j in range(TILE):
            turned[d * TILE + j] = keys.numbers[slots[j] * keys.stride + keys.first + d]


@kernel
def take_values(values, slots, count, part, size, taken):
    """``taken[j] = values[slots[j], part : part + size]`` for so many tokens.  taken: flat, [TILE, TILE]."""
    lines = size // LINE * LINE
    for j in range(count):
        if j + _AHEAD < len(slots):
            for d in range(0, size, LINE):
                ask_for(values.numbers, slots[j + _AHEAD] * values.stride + values.first + part + d)
        place = slots[j] * values.stride + values.first + part
        for d in range(0, lines, LINE):
            copy_line(values.numbers, place + d, taken, j * TILE + d)
        for d in range(lines, size):
            taken[j * TILE + d] = values.numbers[place + d]


@exact_order
def add_products(c0, c1, c2, c3, first, end, rows, sums):
    """``sums[n] += c[n, first:end] @ rows``, one row after the other: four rows are read for sixteen products.

    rows, sums: flat, [end - first, TILE] and [4, TILE].
    """
    fours = first + (end - first) // 4 * 4
    for k in range(first, fours, 4):
        r = rows[(k - first) * TILE : (k - first + 4) * TILE]
        a0, a1, a2, a3 = c0[k], c0[k + 1], c0[k + 2], c0[k + 3]
        b0, b1, b2, b3 = c1[k], c1[k + 1], c1[k + 2], c1[k + 3]
        d0, d1, d2, d3 = c2[k], c2[k + 1], c2[k + 2], c2[k + 3]
        e0, e1, e2, e3 = c3[k], c3[k + 1], c3[k + 2], c3[k + 3]
        for i in range(TILE):
            s, t, u, v = r[i], r[TILE + i], r[2 * TILE + i], r[3 * TILE + i]
            sums[i] = (((sums[i] + a0 * s) + a1 * t) + a2 * u) + a3 * v
            sums[TILE + i] = (((sums[TILE + i] + b0 * s) + b1 * t) + b2 * u) + b3 * v
            sums[2 * TILE + i] = (((sums[2 * TILE + i] + d0 * s) + d1 * t) + d2 * u) + d3 * v
            sums[3 * TILE + i] = (((sums[3 * TILE + i] + e0 * s) + e1 * t) + e2 * u) + e3 * v
    for k in range(fours, end):
        r = rows[(k - first) * TILE : (k - first + 1) * TILE]
        add_product(c0[k], r, sums[:TILE])
        add_product(c1[k], r, sums[TILE : 2 * TILE])
        add_product(c2[k], r, sums[2 * TILE : 3 * TILE])
        add_product(c3[k], r, sums[3 * TILE :])


@exact_order
def add_product(number, row, sums):
    """``sums += number * row``."""
    for i in range(TILE):
        sums[i] += number * row[i]


@kernel
def largest_of(numbers, lanes):
    """Return the largest number.  lanes: [TILE], room for the largest at each place of a tile, which vectors find."""
    lanes[:] = numbers[0]
    tiles = len(numbers) // TILE * TILE
    for j in range(0, tiles, TILE):
        for i in range(TILE):
            lanes[i] = max(lanes[i], numbers[j + i])
    for j in range(tiles, len(numbers)):
        lanes[0] = max(lanes[0], numbers[j])
    half = TILE // 2
    while half > 0:
        for i in range(half):
            lanes[i] = max(lanes[i], lanes[half + i])
        half //= 2
    return lanes[0]


@kernel
def weigh(scores, scaling, lanes):
    """Turn scores into ``e^((score - largest) * scaling)``, in place, and return the sum."""
    largest = largest_of(scores, lanes)
    total = np.float32(0)
    for j in range(len(scores)):
        weight = exp((scores[j] - largest) * scaling)
        scores[j] = weight
        total += weight
    return total
