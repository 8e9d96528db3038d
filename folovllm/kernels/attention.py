"""Attention that reads keys and values where they lie: in the blocks of the KV cache."""

import numpy as np

from folovllm.kernels.compiled import entry, kernel
from folovllm.kernels.elementwise import exp
from folovllm.kernels.team import join, meet, shares

ROW, COUNT, POSITION, SEQUENCE = range(4)
"""Columns of ``pieces``: the first token's row in the batch, how many tokens, its position, whose block table."""

_TILE = 64
"""Keys that are turned around together. A vector's length divides it: each key's sums are computed in the same way."""


@kernel
def first_seen(position, window):
    """Return the first position that a token sees."""
    return max(0, position - window + 1) if window > 0 else 0


@kernel
def find_slots(table, block_size, first, end):
    """Return where the tokens of positions ``first`` to ``end`` lie in the cache; the last one again fills a tile."""
    slots = np.empty((end - first + _TILE - 1) // _TILE * _TILE, np.uint64)  # unsigned: an index is not looked at twice
    for position in range(first, end):
        slots[position - first] = table[position // block_size] * block_size + position % block_size
    slots[end - first :] = slots[end - first - 1]
    return slots


@kernel
def turn_around(keys, slots, head, turned):
    """``turned[d, j] = keys[slots[j], head, d]``.  slots: [_TILE].  turned: [head_dim, _TILE]."""
    for j in range(_TILE):
        key = keys[slots[j], head]
        for d in range(len(key)):
            turned[d, j] = key[d]


@kernel
def score(q0, q1, q2, q3, turned, s0, s1, s2, s3):
    """``s[j] = q . key j`` for four queries and a tile of keys: a sum over d for 64 keys at once, four d at a time."""
    for s in (s0, s1, s2, s3):
        s[:] = np.float32(0)
    fours = len(q0) // 4 * 4
    for d in range(0, fours, 4):
        k0, k1, k2, k3 = turned[d], turned[d + 1], turned[d + 2], turned[d + 3]
        a0, a1, a2, a3 = q0[d], q0[d + 1], q0[d + 2], q0[d + 3]
        b0, b1, b2, b3 = q1[d], q1[d + 1], q1[d + 2], q1[d + 3]
        c0, c1, c2, c3 = q2[d], q2[d + 1], q2[d + 2], q2[d + 3]
        d0, d1, d2, d3 = q3[d], q3[d + 1], q3[d + 2], q3[d + 3]
        for j in range(_TILE):
            s0[j] += a0 * k0[j] + a1 * k1[j] + a2 * k2[j] + a3 * k3[j]
            s1[j] += b0 * k0[j] + b1 * k1[j] + b2 * k2[j] + b3 * k3[j]
            s2[j] += c0 * k0[j] + c1 * k1[j] + c2 * k2[j] + c3 * k3[j]
            s3[j] += d0 * k0[j] + d1 * k1[j] + d2 * k2[j] + d3 * k3[j]
    for d in range(fours, len(q0)):
        k = turned[d]
        for j in range(_TILE):
            s0[j] += q0[d] * k[j]
            s1[j] += q1[d] * k[j]
            s2[j] += q2[d] * k[j]
            s3[j] += q3[d] * k[j]


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
def mix(weights, values, slots, head, total, out):
    """``out = sum of weights[j] * value j, divided by total``: eight at a time, then one by one, in their order."""
    out[:] = np.float32(0)
    eights = len(weights) // 8 * 8
    for j in range(0, eights, 8):
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        w4, w5, w6, w7 = weights[j + 4], weights[j + 5], weights[j + 6], weights[j + 7]
        v0, v1, v2, v3 = (
            values[slots[j], head], values[slots[j + 1], head], values[slots[j + 2], head], values[slots[j + 3], head],
        )  # fmt: skip
        v4, v5, v6, v7 = (
            values[slots[j + 4], head], values[slots[j + 5], head], values[slots[j + 6], head],
            values[slots[j + 7], head],
        )  # fmt: skip
        for d in range(len(out)):
            near = w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d]
            out[d] += near + w4 * v4[d] + w5 * v5[d] + w6 * v6[d] + w7 * v7[d]
    for j in range(eights, len(weights)):
        weight, value = weights[j], values[slots[j], head]
        for d in range(len(out)):
            out[d] += weight * value[d]
    for d in range(len(out)):
        out[d] /= total


@kernel
def score_piece(queries, piece, keys, slots, head, first):
    """Return the scores of a piece's queries as far as they see, [num_tokens * group + 3, num_slots].

    The ``group`` heads that share a key head are further queries of a token, side by side.
    """
    group, head_dim = queries.shape[1] // keys.shape[1], queries.shape[2]
    row, head_row, last = piece[ROW], head * group, piece[COUNT] * group - 1
    scores = np.empty((last + 4, len(slots)), np.float32)
    turned = np.empty((head_dim, _TILE), np.float32)
    for start in range(0, len(slots), _TILE):
        turn_around(keys, slots[start : start + _TILE], head, turned)
        end = start + _TILE
        for n in range(0, last + 1, 4):
            n1, n2, n3 = min(n + 1, last), min(n + 2, last), min(n + 3, last)
            if first + start <= piece[POSITION] + n3 // group:
                score(
                    queries[row + n // group, head_row + n % group],
                    queries[row + n1 // group, head_row + n1 % group],
                    queries[row + n2 // group, head_row + n2 % group],
                    queries[row + n3 // group, head_row + n3 % group],
                    turned,
                    scores[n, start:end],
                    scores[n + 1, start:end],
                    scores[n + 2, start:end],
                    scores[n + 3, start:end],
                )
    return scores


@kernel
def attention(team, queries, keys, values, pieces, tables, block_size, scaling, window, out):
    """``softmax(q k^T * scaling) v`` of every token over its own sequence, up to itself.

    queries, out: [num_tokens, num_heads, head_dim].  keys, values: [num_slots, num_kv_heads, head_dim], the new ones
    included.  pieces: [num_pieces, 4], parts of sequences (:data:`ROW` ...).  tables: [num_sequences, most_blocks].
    window: how many latest positions a token sees, itself included; 0 for all before it.
    (Kwon et al. 2023, arXiv:2309.06180, section 4.3; grouped heads: Ainslie et al. 2023, arXiv:2305.13245.)
    """
    num_kv_heads = keys.shape[1]
    group = queries.shape[1] // num_kv_heads  # the heads that share a key head are further queries of a token
    for share in shares(team, len(pieces) * num_kv_heads):
        piece, head = pieces[share // num_kv_heads], share % num_kv_heads
        position = piece[POSITION]
        first = first_seen(position, window)
        slots = find_slots(tables[piece[SEQUENCE]], block_size, first, position + piece[COUNT])
        scores = score_piece(queries, piece, keys, slots, head, first)
        for n in range(piece[COUNT] * group):
            token = n // group
            start = first_seen(position + token, window) - first
            weights = scores[n, start : position + token + 1 - first]
            total = weigh(weights, scaling)
            mix(weights, values, slots[start:], head, total, out[piece[ROW] + token, head * group + n % group])


@entry
def attend(progress, queries, keys, values, pieces, tables, block_size, scaling, window, out):
    """:func:`attention` by itself, for a model that is not ours. progress: :mod:`folovllm.kernels.team`'s counters."""
    team = join(progress)
    attention(team, queries, keys, values, pieces, tables, block_size, scaling, window, out)
    meet(team)
