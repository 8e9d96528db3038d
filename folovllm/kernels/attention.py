"""Attention that reads keys and values where they lie: in the blocks of the KV cache."""

import numpy as np

from folovllm.kernels.compiled import entry, kernel
from folovllm.kernels.elementwise import exp
from folovllm.kernels.linear import sums_4_by_3
from folovllm.kernels.team import join, meet, shares

ROW, COUNT, POSITION, SEQUENCE = range(4)
"""Columns of ``pieces``: the first token's row in the batch, how many tokens, its position, whose block table."""

_ROOM = 8
"""What :func:`score` and :func:`mix` write or read beyond the last position, at most."""


@kernel
def find_slots(table, block_size, first, end):
    """Return where the tokens of positions ``first`` to ``end`` lie in the cache, and ``_ROOM`` times the last one."""
    slots = np.empty(end - first + _ROOM, np.int64)
    for j in range(end - first):
        slots[j] = table[(first + j) // block_size] * block_size + (first + j) % block_size
    for j in range(end - first, len(slots)):
        slots[j] = slots[end - first - 1]
    return slots


@kernel
def score(rows, keys, slots, num_keys, head, scaling, scores):
    """``scores[i, j] = rows[i] . key j * scaling``, for four rows and all keys."""
    s0, s1, s2, s3 = scores
    for j in range(0, num_keys, 3):
        k0, k1, k2 = keys[slots[j], head], keys[slots[j + 1], head], keys[slots[j + 2], head]
        sums = sums_4_by_3(rows[0], rows[1], rows[2], rows[3], k0, k1, k2)
        for i in range(3):
            s0[j + i] = sums[i] * scaling
            s1[j + i] = sums[3 + i] * scaling
            s2[j + i] = sums[6 + i] * scaling
            s3[j + i] = sums[9 + i] * scaling


@kernel
def weigh(scores):
    """Turn scores into e^(score - largest), in place, and return the sum."""
    largest = scores[0]
    for j in range(len(scores)):
        largest = max(largest, scores[j])
    total = np.float32(0)
    for j in range(len(scores)):
        weight = exp(scores[j] - largest)
        scores[j] = weight
        total += weight
    return total


@kernel
def mix(weights, num_keys, values, slots, head, total, out):
    """``out = sum of weights[j] * value j, divided by total``: eight at a time, in their order.

    weights, slots: [num_keys + _ROOM]; what weights hold beyond the last key is lost.
    """
    out[:] = np.float32(0)
    weights[num_keys : num_keys + _ROOM] = np.float32(0)
    last = num_keys - 1
    for j in range(0, num_keys, 8):
        w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        w4, w5, w6, w7 = weights[j + 4], weights[j + 5], weights[j + 6], weights[j + 7]
        # Not beyond the last: 0 * NaN is NaN, and what a later token holds is no business of this one.
        v0, v1 = values[slots[j], head], values[slots[min(j + 1, last)], head]
        v2, v3 = values[slots[min(j + 2, last)], head], values[slots[min(j + 3, last)], head]
        v4, v5 = values[slots[min(j + 4, last)], head], values[slots[min(j + 5, last)], head]
        v6, v7 = values[slots[min(j + 6, last)], head], values[slots[min(j + 7, last)], head]
        for d in range(len(out)):
            near = w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d]
            out[d] += near + w4 * v4[d] + w5 * v5[d] + w6 * v6[d] + w7 * v7[d]
    for d in range(len(out)):
        out[d] /= total


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
        row, position = piece[ROW], piece[POSITION]
        # Rounded down, so that a key is always the same one of three in a row's sums.
        first = max(0, position - window + 1) // 3 * 3 if window > 0 else 0
        slots = find_slots(tables[piece[SEQUENCE]], block_size, first, position + piece[COUNT])
        scores = np.empty((4, len(slots)), np.float32)
        num_rows = piece[COUNT] * group
        for n in range(0, num_rows, 4):
            n1, n2, n3 = min(n + 1, num_rows - 1), min(n + 2, num_rows - 1), min(n + 3, num_rows - 1)
            rows = (
                queries[row + n // group, head * group + n % group],
                queries[row + n1 // group, head * group + n1 % group],
                queries[row + n2 // group, head * group + n2 % group],
                queries[row + n3 // group, head * group + n3 % group],
            )
            end = position + n3 // group + 1
            score(rows, keys, slots, end - first, head, scaling, (scores[0], scores[1], scores[2], scores[3]))
            for i in range(n, n3 + 1):
                token = position + i // group
                start = (max(0, token - window + 1) if window > 0 else 0) - first
                weights = scores[i - n, start:]
                num_keys = token + 1 - first - start
                total = weigh(weights[:num_keys])
                result = out[row + i // group, head * group + i % group]
                mix(weights, num_keys, values, slots[start:], head, total, result)


@entry
def attend(progress, queries, keys, values, pieces, tables, block_size, scaling, window, out):
    """:func:`attention` by itself, for a model that is not ours. progress: :mod:`folovllm.kernels.team`'s counters."""
    team = join(progress)
    attention(team, queries, keys, values, pieces, tables, block_size, scaling, window, out)
    meet(team)
