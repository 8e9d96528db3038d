"""Attention that reads keys and values where they lie: in the blocks of the KV cache.

A tile is 64 tokens: their keys, turned around, are multiplied by a piece's queries, and later their values are mixed by
its weights. Both are sums of rows times numbers, so both are :func:`add_products`, four rows and four sums at a time.
"""

from typing import Any, NamedTuple

import numpy as np

from folovllm.kernels.compiled import entry, exact_order, kernel, maker
from folovllm.kernels.elementwise import exp
from folovllm.kernels.fetch import LINE, ask_for
from folovllm.kernels.square import SIDE, turn_square
from folovllm.kernels.team import join, meet, shares
from folovllm.kernels.tile import pick_4

ROW, COUNT, POSITION, SEQUENCE = range(4)
"""Columns of ``pieces``: the first token's row in the batch, how many tokens, its position, whose row of ``slots``."""

TILE = 64
"""So many tokens are looked at together, and so many numbers of a value."""

_AHEAD = 16
"""Keys and values are asked for so many tokens before they are needed."""


class Room(NamedTuple):
    """What one thread writes to while it attends for a piece, whose queries of one key head are ``n`` at most.

    queries: [n, head_dim].  scores: [n, num_slots].  totals: [n].  keys: [head_dim * TILE].  values: [TILE * TILE].
    sums: [n and up to three more, 4 * TILE].
    """

    queries: Any
    scores: Any
    totals: Any
    keys: Any
    values: Any
    sums: Any


@maker
def aligned(count):
    """Return so many numbers that begin at a multiple of 64 bytes, which a processor reads and writes at once."""
    numbers = np.empty(count + LINE, np.float32)
    first = -(numbers.ctypes.data // 4) % LINE
    return numbers[first : first + count]


@maker
def make_room(pieces, slots, group, head_dim):
    """Return room for one thread.  group: how many heads share a key head."""
    most = 0
    for i in range(len(pieces)):
        most = max(most, pieces[i, COUNT] * group)
    return Room(
        np.empty((most, head_dim), np.float32),
        np.empty((most, slots.shape[1]), np.float32),
        np.empty(most, np.float32),
        aligned(head_dim * TILE),
        aligned(TILE * TILE),
        aligned((most + 3) // 4 * 4 * TILE).reshape(-1, 4 * TILE),
    )


@kernel
def seen_from(position, window):
    """Return the first position that a token sees; the last one is its own."""
    return max(0, position - window + 1) if window > 0 else 0


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
def turn_keys(keys, slots, stride, column, head_dim, turned):
    """``turned[d, j] = keys[slots[j], column + d]`` for a tile.  keys: flat, rows of ``stride``.  turned: flat."""
    squares = head_dim // SIDE * SIDE
    for j in range(0, TILE, SIDE):
        for i in range(j + _AHEAD, min(j + _AHEAD + SIDE, len(slots))):
            for d in range(0, head_dim, LINE):
                ask_for(keys, slots[i] * stride + column + d)
        for d in range(0, squares, SIDE):
            turn_square(keys, slots, j, stride, column + d, turned, d * TILE + j, TILE)
    for d in range(squares, head_dim):
        for j in range(TILE):
            turned[d * TILE + j] = keys[slots[j] * stride + column + d]


@kernel
def score(piece, group, keys, slots, stride, column, window, room):
    """Fill in ``room.scores``, queries times keys, as far as queries see."""
    queries, scores, sums = room.queries, room.scores, room.sums[0]
    count, position, head_dim = piece[COUNT] * group, piece[POSITION], queries.shape[1]
    for start in range(seen_from(position, window) // TILE * TILE, position + piece[COUNT], TILE):
        turn_keys(keys, slots[start:], stride, column, head_dim, room.keys)
        for n in range(0, count, 4):
            if start <= position + min(n + 3, count - 1) // group:
                c0, c1, c2, c3 = pick_4(queries[:count], n)
                sums[:] = np.float32(0)
                add_products(c0, c1, c2, c3, 0, head_dim, room.keys, sums)
                for i in range(min(4, count - n)):
                    for j in range(TILE):
                        scores[n + i, start + j] = sums[i * TILE + j]


@kernel
def weigh(scores, scaling):
    """Turn scores into ``e^((score - largest) * scaling)``, in place, and return the sum."""
    largest = scores[0]
    for j in range(len(scores)):
        largest = max(largest, scores[j])
    total = np.float32(0)
    for j in range(len(scores)):
        weight = exp((scores[j] - largest) * scaling)
        scores[j] = weight
        total += weight
    return total


@kernel
def take_values(values, slots, count, stride, column, size, taken):
    """``taken[j] = values[slots[j], column:]``, so many numbers of each.  taken: flat, [TILE, TILE]."""
    for j in range(count):
        if j + _AHEAD < len(slots):
            for d in range(0, size, LINE):
                ask_for(values, slots[j + _AHEAD] * stride + column + d)
        value, mine = values[slots[j] * stride + column :], taken[j * TILE :]
        for d in range(size):
            mine[d] = value[d]


@kernel
def add_alone(weights, first, end, values, start, sums):
    """``sums += weights[first:end] @ values``, for one query.  values: those of the tokens from ``start`` on."""
    for j in range(first, end):
        add_product(weights[j], values[(j - start) * TILE :], sums)


@kernel
def mix_tile(piece, group, window, start, room):
    """Add a tile's values times weights to the sums, for four queries at once where all four see them.

    Each query's values are added in their order, whoever stands beside it.
    """
    count, weights, values, end = piece[COUNT] * group, room.scores, room.values, start + TILE
    for n in range(0, count, 4):
        last, sums = min(n + 3, count - 1), room.sums[n // 4]
        first = max(start, seen_from(piece[POSITION] + last // group, window))
        stop = max(first, min(end, piece[POSITION] + n // group + 1))
        for i in range(last - n + 1):
            position = piece[POSITION] + (n + i) // group
            begin = max(start, seen_from(position, window))
            add_alone(weights[n + i], begin, min(first, end, position + 1), values, start, sums[i * TILE :])
        if first < stop:
            w0, w1, w2, w3 = pick_4(weights[:count], n)
            add_products(w0, w1, w2, w3, first, stop, values[(first - start) * TILE :], sums)
        for i in range(last - n + 1):
            position = piece[POSITION] + (n + i) // group
            add_alone(weights[n + i], stop, min(end, position + 1), values, start, sums[i * TILE :])


@kernel
def mix(piece, head, group, values, slots, stride, column, window, room, out):
    """Write the values that a piece's queries see, mixed by their weights, to ``out``."""
    head_dim, end = room.queries.shape[1], piece[POSITION] + piece[COUNT]
    for part in range(0, head_dim, TILE):
        size = min(TILE, head_dim - part)
        room.sums[:] = np.float32(0)
        for start in range(seen_from(piece[POSITION], window) // TILE * TILE, end, TILE):
            take_values(values, slots[start:], min(TILE, end - start), stride, column + part, size, room.values)
            mix_tile(piece, group, window, start, room)
        for n in range(piece[COUNT] * group):
            row, sums = out[piece[ROW] + n // group, head * group + n % group], room.sums[n // 4, n % 4 * TILE :]
            for d in range(size):
                row[part + d] = sums[d] / room.totals[n]


@kernel
def attention(team, queries, keys, values, pieces, slots, scaling, window, room, out):
    """``softmax(q k^T * scaling) v`` of every token over its own sequence, up to itself.

    queries, out: [num_tokens, num_heads, head_dim].  keys, values: [num_slots, num_kv_heads, head_dim], the new ones
    included.  pieces: [num_pieces, 4], parts of sequences (:data:`ROW` ...).  slots: [num_sequences, most], where each
    sequence's tokens lie; ``most`` is a multiple of :data:`TILE`, and what stands behind a sequence's end is any slot.
    window: how many latest positions a token sees, itself included; 0 for all before it.
    (Kwon et al. 2023, arXiv:2309.06180, section 4.3; grouped heads: Ainslie et al. 2023, arXiv:2305.13245.)
    """
    num_kv_heads, head_dim = keys.shape[1:]
    stride, group = num_kv_heads * head_dim, queries.shape[1] // num_kv_heads
    keys, values = keys.reshape(-1), values.reshape(-1)
    for share in shares(team, len(pieces) * num_kv_heads):
        piece, head = pieces[share // num_kv_heads], share % num_kv_heads
        mine, column = slots[piece[SEQUENCE]], head * head_dim
        for n in range(piece[COUNT] * group):  # the heads that share a key head are further queries of a token
            query, copy = queries[piece[ROW] + n // group, head * group + n % group], room.queries[n]
            for d in range(head_dim):
                copy[d] = query[d]
        score(piece, group, keys, mine, stride, column, window, room)
        for n in range(piece[COUNT] * group):
            position = piece[POSITION] + n // group
            room.totals[n] = weigh(room.scores[n, seen_from(position, window) : position + 1], scaling)
        mix(piece, head, group, values, mine, stride, column, window, room, out)


@entry
def attend(progress, queries, keys, values, pieces, slots, scaling, window, out):
    """:func:`attention` by itself, for a model that is not ours. progress: :mod:`folovllm.kernels.team`'s counters."""
    team = join(progress)
    room = make_room(pieces, slots, queries.shape[1] // keys.shape[1], keys.shape[2])
    attention(team, queries, keys, values, pieces, slots, scaling, window, room, out)
    meet(team)
