"""Attention that reads keys and values where they lie: in the blocks of the KV cache.

Queries come in pieces of a sequence. What several sequences have in common, their prompt, is read once for a bundle of
pieces. (vLLM: ``use_cascade_attention``.)
"""

from typing import Any, NamedTuple

import numpy as np

from folovllm.kernels.attention_tile import TILE, add_product, add_products, columns_of, take_values, turn_keys, weigh
from folovllm.kernels.compiled import entry, kernel, maker
from folovllm.kernels.fetch import LINE, copy_line
from folovllm.kernels.team import join, meet, shares

ROW, COUNT, POSITION, SEQUENCE = range(4)
"""Columns of ``pieces``: the first token's row in the batch, how many tokens, its position, whose row of ``slots``."""

FIRST, END, COMMON = range(3)
"""Columns of ``bundles``: its first piece, the first behind it, the tokens in common: full tiles, before all pieces."""


class Span(NamedTuple):
    """Queries side by side in a room: the first, how many, their first token's position, how many heads a token has."""

    first: Any
    count: Any
    position: Any
    group: Any


class Room(NamedTuple):
    """What one thread writes to while it attends for a bundle, whose queries of one key head are ``n`` at most.

    queries: [n, head_dim].  scores: [n, num_slots].  totals: [n].  keys: [head_dim * TILE].  values: [TILE * TILE].
    sums: [n / 4, 4 * TILE].
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


@kernel
def spans(pieces, group):
    """Yield the number of each piece, and where its queries lie: from a multiple of four on."""
    first = 0
    for i in range(len(pieces)):
        span = Span(first, pieces[i, COUNT] * group, pieces[i, POSITION], group)
        yield i, span
        first = end_of(span)


@kernel
def end_of(span):
    """Return where further queries can begin."""
    return span.first + (span.count + 3) // 4 * 4


@maker
def make_room(pieces, bundles, slots, group, head_dim):
    """Return room for one thread.  group: how many heads share a key head."""
    most = 0
    for bundle in bundles:
        for _, span in spans(pieces[bundle[FIRST] : bundle[END]], group):
            most = max(most, end_of(span))
    return Room(
        np.zeros((most, head_dim), np.float32),  # what fills a piece up to four is computed with, and never looked at
        np.empty((most, slots.shape[1]), np.float32),
        np.empty(most, np.float32),
        aligned(head_dim * TILE),
        aligned(TILE * TILE),
        aligned(most * TILE).reshape(-1, 4 * TILE),
    )


@kernel
def seen_from(position, window):
    """Return the first position that a token sees; the last one is its own."""
    return max(0, position - window + 1) if window > 0 else 0


@kernel
def pick_4(rows, first):
    """Return four rows from ``first`` on; the last one stands in for those that are missing."""
    last = len(rows) - 1
    return rows[first], rows[min(first + 1, last)], rows[min(first + 2, last)], rows[min(first + 3, last)]


@kernel
def own_tiles(span, common, window):
    """Return where the tiles begin that queries see, behind what is in common, and where the tokens end."""
    begin = max(common, seen_from(span.position, window) // TILE * TILE)
    return begin, span.position + span.count // span.group


@kernel
def take_queries(queries, piece, head, span, room):
    """Copy a piece's queries of one key head: the heads that share it are further queries of a token."""
    for n in range(span.count):
        query = queries[piece[ROW] + n // span.group, head * span.group + n % span.group]
        copy = room.queries[span.first + n]
        for d in range(len(copy)):
            copy[d] = query[d]


@kernel
def score(span, begin, end, keys, slots, room):
    """Fill in ``room.scores``, queries times keys, from tile to tile, as far as queries see."""
    queries, scores, width = room.queries[span.first : span.first + span.count], room.scores.reshape(-1), len(slots)
    sums, head_dim = room.sums[0], queries.shape[1]
    for start in range(begin, end, TILE):
        turn_keys(keys, slots[start:], head_dim, room.keys)
        for n in range(0, span.count, 4):
            if start <= span.position + min(n + 3, span.count - 1) // span.group:
                c0, c1, c2, c3 = pick_4(queries, n)
                sums[:] = np.float32(0)
                add_products(c0, c1, c2, c3, 0, head_dim, room.keys, sums)
                for i in range(min(4, span.count - n)):
                    for j in range(0, TILE, LINE):
                        copy_line(sums, i * TILE + j, scores, (span.first + n + i) * width + start + j)


@kernel
def weigh_scores(span, scaling, window, room):
    """Turn scores into weights, as far as queries see; keep their totals."""
    for n in range(span.count):
        position = span.position + n // span.group
        seen = room.scores[span.first + n, seen_from(position, window) : position + 1]
        room.totals[span.first + n] = weigh(seen, scaling, room.keys[:TILE])


@kernel
def add_alone(weights, first, end, values, start, sums):
    """``sums += weights[first:end] @ values``, for one query.  values: those of the tokens from ``start`` on."""
    for j in range(first, end):
        add_product(weights[j], values[(j - start) * TILE :], sums)


@kernel
def mix_tile(span, window, start, room):
    """Add a tile's values times weights to the sums, for four queries at once where all four see them.

    Each query's values are added in their order, whoever stands beside it.
    """
    weights, values, end = room.scores[span.first : span.first + span.count], room.values, start + TILE
    for n in range(0, span.count, 4):
        last, sums = min(n + 3, span.count - 1), room.sums[(span.first + n) // 4]
        first = max(start, seen_from(span.position + last // span.group, window))
        stop = max(first, min(end, span.position + n // span.group + 1))
        for i in range(last - n + 1):
            position = span.position + (n + i) // span.group
            begin = max(start, seen_from(position, window))
            add_alone(weights[n + i], begin, min(first, end, position + 1), values, start, sums[i * TILE :])
        if first < stop:
            w0, w1, w2, w3 = pick_4(weights, n)
            add_products(w0, w1, w2, w3, first, stop, values[(first - start) * TILE :], sums)
        for i in range(last - n + 1):
            position = span.position + (n + i) // span.group
            add_alone(weights[n + i], stop, min(end, position + 1), values, start, sums[i * TILE :])


@kernel
def mix(span, begin, end, values, slots, part, size, window, room):
    """Add the values that queries see, times their weights, to the sums, from tile to tile."""
    for start in range(begin, end, TILE):
        take_values(values, slots[start:], min(TILE, end - start), part, size, room.values)
        mix_tile(span, window, start, room)


@kernel
def write_mixed(piece, head, span, part, size, room, out):
    """Divide a piece's sums by the totals of their weights, and write them to the result."""
    for n in range(span.count):
        row = out[piece[ROW] + n // span.group, head * span.group + n % span.group]
        sums, total = room.sums[(span.first + n) // 4, n % 4 * TILE :], room.totals[span.first + n]
        for d in range(size):
            row[part + d] = sums[d] / total


@kernel
def attend_together(queries, keys, values, pieces, common, head, slots, scaling, window, room, out):
    """Attend with one key head for pieces that have a beginning in common; see :func:`attention`."""
    head_dim, group = keys.shape[2], queries.shape[1] // keys.shape[1]
    keys, values, theirs = columns_of(keys, head), columns_of(values, head), slots[pieces[0, SEQUENCE]]
    num_queries = 0
    for i, span in spans(pieces, group):
        take_queries(queries, pieces[i], head, span, room)
        num_queries = end_of(span)
    everyone = Span(0, num_queries, common, group)
    score(everyone, 0, common, keys, theirs, room)
    for i, span in spans(pieces, group):
        begin, end = own_tiles(span, common, window)
        score(span, begin, end, keys, slots[pieces[i, SEQUENCE]], room)
        weigh_scores(span, scaling, window, room)
    for part in range(0, head_dim, TILE):
        size = min(TILE, head_dim - part)
        room.sums[:] = np.float32(0)
        mix(everyone, 0, common, values, theirs, part, size, window, room)
        for i, span in spans(pieces, group):
            begin, end = own_tiles(span, common, window)
            mix(span, begin, end, values, slots[pieces[i, SEQUENCE]], part, size, window, room)
            write_mixed(pieces[i], head, span, part, size, room, out)


@kernel
def attention(team, queries, keys, values, pieces, bundles, slots, scaling, window, room, out):
    """``softmax(q k^T * scaling) v`` of every token over its own sequence, up to itself.

    queries, out: [num_tokens, num_heads, head_dim].  keys, values: [num_slots, num_kv_heads, head_dim], the new ones
    included.  pieces: [num_pieces, 4], parts of sequences (:data:`ROW` ...).  bundles: [num_bundles, 3], which of them
    begin with the same tokens (:data:`FIRST` ...).  slots: [num_sequences, most], where each sequence's tokens lie;
    ``most`` is a multiple of :data:`TILE`, and what stands behind a sequence's end is any slot.
    window: how many latest positions a token sees, itself included; 0 for all before it.
    (Kwon et al. 2023, arXiv:2309.06180, section 4.3; grouped heads: Ainslie et al. 2023, arXiv:2305.13245.)
    """
    num_kv_heads = keys.shape[1]
    for share in shares(team, len(bundles) * num_kv_heads):
        bundle, head = bundles[share // num_kv_heads], share % num_kv_heads
        together = pieces[bundle[FIRST] : bundle[END]]
        common = 0 if window > 0 else bundle[COMMON]  # with a window, each sees another part of it
        attend_together(queries, keys, values, together, common, head, slots, scaling, window, room, out)


@entry
def attend(progress, queries, keys, values, pieces, bundles, slots, scaling, window, out):
    """:func:`attention` by itself, for a model that is not ours. progress: :mod:`folovllm.kernels.team`'s counters."""
    team = join(progress)
    room = make_room(pieces, bundles, slots, queries.shape[1] // keys.shape[1], keys.shape[2])
    attention(team, queries, keys, values, pieces, bundles, slots, scaling, window, room, out)
    meet(team)
