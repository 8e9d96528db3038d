"""From logits to a token, row by row: temperature, top-k, top-p, min-p, the draw, and the numbers behind a probability.

A row is a share: one thread works on it, in room of its own, so nothing depends on how many rows or threads there are.
Nothing is sorted. Where a filter ends is found by halving: there are 2^32 float32 numbers, so 32 looks find the right
one, and a look is a loop over the row at the full width of the CPU's vectors.
"""

from typing import Any, NamedTuple

import numpy as np

from folovllm.kernels.compiled import entry, kernel, maker
from folovllm.kernels.elementwise import exp
from folovllm.kernels.team import join, meet, shares

_PIECE = 512
"""Weights are added up in pieces of this length; a draw skips whole pieces."""

_INFINITY = np.int32(0x7F800000)
"""What :func:`rank` gives for infinity."""


class Filters(NamedTuple):
    """What each row asks for, [num_rows] each.

    temperature: float32, > 0.  top_k: int64, 0 for none.  top_p: float64, 1 for none.  log_min_p: float32, the
    logarithm of min-p.  min_p_first: one bool for all; min-p comes before the others, or after them.
    """

    temperature: Any
    top_k: Any
    top_p: Any
    log_min_p: Any
    min_p_first: Any


class Room(NamedTuple):
    """What one thread writes to while it works on a row.

    row, weights, picked_weights: [vocab], float32.  ranks: [vocab], int32.  sums: one a piece, float64.
    """

    row: Any
    weights: Any
    picked_weights: Any
    ranks: Any
    sums: Any


@maker
def make_room(vocab_size):
    """Return room for one thread, in one piece: it is asked for in every call."""
    floats = np.empty((4, vocab_size), np.float32)
    sums = np.empty((vocab_size + _PIECE - 1) // _PIECE, np.float64)
    return Room(floats[0], floats[1], floats[2], floats[3].view(np.int32), sums)


@kernel
def rank(x):
    """Return a whole number that is larger for a larger float32, and equal for 0 and -0: its bits, sign and magnitude.

    Unlike floats, whole numbers leave no doubt: NaN ranks beyond infinity, with its own sign.
    """
    bits = np.float32(x).view(np.int32)
    magnitude = np.int32(bits & np.int32(0x7FFFFFFF))
    return np.int32(magnitude if bits >= 0 else -magnitude)


@kernel
def largest(row):
    """Return the row's largest number, and whether it is finite and none is NaN: whether a token can be drawn."""
    lowest = highest = rank(row[0])
    for i in range(len(row)):
        place = rank(row[i])
        lowest, highest = min(lowest, place), max(highest, place)
    usable = lowest >= -_INFINITY and -_INFINITY < highest < _INFINITY
    bits = highest if highest >= 0 else np.int32(-highest) | np.int32(-0x80000000)
    return np.int32(bits).view(np.float32), usable


@kernel
def weigh(row, best, weights, sums):
    """``weights = e^(row - best)``, each token's probability as a share of the largest.  Returns their sum, float64.

    sums: filled in with the sum of each piece. Below e^-87 float32 runs out of normal numbers: that counts as zero.
    """
    for i in range(len(row)):
        x = row[i] - best
        weights[i] = np.float32(0) if x < np.float32(-87) else exp(x)
    total = 0.0
    for j in range(len(sums)):
        piece = weights[j * _PIECE : min(len(weights), (j + 1) * _PIECE)]
        sums[j] = 0.0
        for i in range(len(piece)):
            sums[j] += piece[i]
        total += sums[j]
    return total


@kernel
def halve(low, high):
    """Return the number half-way, rounded up."""
    return np.int32((np.int64(low) + np.int64(high) + 1) >> 1)


@kernel
def count_from(ranks, border):
    """Return how many tokens rank at least so high."""
    count = np.int32(0)
    for i in range(len(ranks)):
        count = np.int32(count + np.int32(ranks[i] >= border))
    return count


@kernel
def find_kth(row, best, k, ranks):
    """Fill in all ranks, and return that of the k-th largest number: the largest rank that k tokens reach."""
    for i in range(len(row)):
        ranks[i] = rank(row[i])
    low, high = -_INFINITY, rank(best)
    while low < high:
        border = halve(low, high)
        if count_from(ranks, border) >= k:
            low = border
        else:
            high = np.int32(border - 1)
    return low


@kernel
def add_up(values, weights, border):
    """Return how much the tokens weigh together whose values are at least so high."""
    total = np.float64(0)
    for i in range(len(values)):
        total += weights[i] if values[i] >= border else np.float32(0)
    return total


@kernel
def find_nucleus(row, best, top_p, room):
    """Return the rank of the least likely token of the nucleus, and how many tokens that equal it are too many.

    The border is the largest number such that the tokens from it on reach ``top_p``. All tokens are looked at until
    it is known to a tenth, and after that the few between.
    """
    weights = room.weights
    target = top_p * weigh(row, best, weights, room.sums)
    low, high = best - np.float32(88), np.float32(np.inf)  # nothing below weighs anything
    for _ in range(10):
        border = (low + min(high, best)) / np.float32(2)
        if add_up(row, weights, border) >= target:
            low = border
        else:
            high = border
    target -= add_up(row, weights, high)
    few = 0
    for i in range(len(row)):
        room.ranks[few] = rank(row[i])
        room.picked_weights[few] = weights[i]
        few += low <= row[i] < high
    ranks, weights = room.ranks[:few], room.picked_weights[:few]
    lowest, highest = rank(low), rank(min(high, best))
    while lowest < highest:
        middle = halve(lowest, highest)
        if add_up(ranks, weights, middle) >= target:
            lowest = middle
        else:
            highest = np.int32(middle - 1)
    target -= add_up(ranks, weights, np.int32(lowest + 1))
    surplus = 0
    for i in range(few):
        if ranks[i] == lowest:
            surplus += target <= 0
            target -= weights[i]
    return lowest, surplus


@kernel
def drop_below(row, border, surplus):
    """Drop what ranks below the border, and of what equals it the first ones, as many as are too many."""
    for i in range(len(row)):
        row[i] = row[i] if rank(row[i]) >= border else np.float32(-np.inf)
    i = 0
    while surplus > 0:
        if rank(row[i]) == border:
            row[i] = np.float32(-np.inf)
            surplus -= 1
        i += 1


@kernel
def keep_min_p(row, best, log_min_p):
    """Drop tokens less likely than min-p times the likeliest: a ratio of probabilities is a difference of logits."""
    threshold = best + log_min_p
    for i in range(len(row)):
        row[i] = row[i] if row[i] >= threshold else np.float32(-np.inf)


@kernel
def filter_row(logits, filters, i, room):
    """``room.row = logits / temperature``, filtered as row ``i`` asks; a dropped token is -inf.

    Returns the largest, and whether a token can be drawn; if not, nothing is filtered.
    """
    row = room.row
    for j in range(len(row)):
        row[j] = logits[j] / filters.temperature[i]
    best, usable = largest(row)
    if usable:
        if filters.min_p_first:
            keep_min_p(row, best, filters.log_min_p[i])
        if 0 < filters.top_k[i] < len(row):
            drop_below(row, find_kth(row, best, filters.top_k[i], room.ranks), 0)
        if filters.top_p[i] < 1:
            border, surplus = find_nucleus(row, best, filters.top_p[i], room)
            drop_below(row, border, surplus)
        if not filters.min_p_first:
            keep_min_p(row, best, filters.log_min_p[i])
    return best, usable


@kernel
def draw(row, best, uniform, room):
    """Return the token at the place in [0, 1) that the number points to, each being as wide as its probability."""
    place = uniform * weigh(row, best, room.weights, room.sums)
    last = len(room.sums) - 1
    while room.sums[last] == 0:
        last -= 1
    reached, piece = 0.0, 0
    while piece < last and reached + room.sums[piece] <= place:
        reached += room.sums[piece]
        piece += 1
    token_id = 0
    for i in range(piece * _PIECE, min(len(row), (piece + 1) * _PIECE)):
        if room.weights[i] > 0:
            token_id = i
            reached += room.weights[i]
            if reached > place:
                break
    return token_id  # where rounding leaves the sum short of the place, the piece's last possible token


@kernel
def find_likeliest(row, best, token_ids, ranks):
    """Fill in the likeliest tokens in the vocabulary's order, of equal ones the first; and all ranks."""
    border = find_kth(row, best, len(token_ids), ranks)
    ties = len(token_ids) - count_from(ranks, np.int32(border + 1))
    few = 0
    for i in range(len(row)):
        if ranks[i] > border or (ranks[i] == border and ties > 0):
            ties -= ranks[i] == border
            token_ids[few] = i
            few += 1


@entry
def filter_rows(progress, logits, filters, out):
    """Fill in each row as :func:`filter_row` does.  logits, out: [num_rows, vocab]."""
    team = join(progress)
    room = make_room(logits.shape[1])
    for i in shares(team, len(logits)):
        filter_row(logits[i], filters, i, room)
        out[i, :] = room.row
    meet(team)


@entry
def sample_rows(progress, logits, rows, filters, uniforms, token_ids):
    """Fill in a token for each row that is drawn, or -1 where its logits are no numbers or leave no token.

    logits: [any, vocab].  rows: [num_rows], which to draw from.  uniforms: [num_rows], float64.  token_ids: [num_rows].
    """
    team = join(progress)
    room = make_room(logits.shape[1])
    for i in shares(team, len(rows)):
        best, usable = filter_row(logits[rows[i]], filters, i, room)
        token_ids[i] = draw(room.row, best, uniforms[i], room) if usable else -1
    meet(team)


@entry
def choose_rows(progress, logits, token_ids):
    """Fill in each row's likeliest token, the first of several equal ones, or -1 as :func:`sample_rows` does."""
    team = join(progress)
    for i in shares(team, len(logits)):
        row = logits[i]
        best, usable = largest(row)
        token_ids[i] = 0 if usable else -1
        while usable and row[token_ids[i]] != best:
            token_ids[i] += 1
    meet(team)


@entry
def judge_rows(progress, logits, judged, values, best, log_totals, ranks):
    """Fill in what the log-probabilities of some tokens are made of.  logits: [num_rows, vocab].

    judged: [num_rows, 1 + k], token ids, the first one given, the k likeliest filled in.  values: their logits.
    best: [num_rows], the largest.  log_totals: [num_rows], of the sum of e^(logit - best).
    ranks: [num_rows], how many logits reach the first one.
    """
    team = join(progress)
    room = make_room(logits.shape[1])
    for i in shares(team, len(logits)):
        row, likeliest = logits[i], judged[i, 1:]
        best[i], _ = largest(row)
        log_totals[i] = np.log(weigh(row, best[i], room.weights, room.sums))
        find_likeliest(row, best[i], likeliest, room.ranks)
        ranks[i] = count_from(room.ranks, rank(row[judged[i, 0]]))
        for j in range(judged.shape[1]):
            values[i, j] = row[judged[i, j]]
    meet(team)
