"""Top-p: the smallest set of tokens whose probability reaches a given part of the whole.

The set is mostly small, so the likeliest few tokens are looked at first, and only rows that need more are
sorted whole. What is left of the others is handed on as those few tokens.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from folovllm.sampling.filtered_rows import FilteredRows, pick_rows
from folovllm.sampling.metadata import wide_dtype
from folovllm.sampling.ranking import largest, sort_values

_USUAL_SIZE = 512
"""So many of the likeliest tokens are looked at first: finding them costs a third of a sort of all values."""

_PIECE = 512
"""Weights are added up in pieces of this length, which no number of threads divides."""


def weigh(logits: Tensor, best: Tensor) -> Tensor:
    """Return every token's probability as a share of its row's largest: what is below e^-87 counts as zero.

    best: each row's largest logit, [num_rows, 1]. Below e^-87 float32 runs out of normal numbers, and MKL's exp
    takes a hundred times as long.
    """
    weights = (logits - best).clamp_(min=-87.0).exp_()
    return functional.threshold(weights, 1.65e-38, 0.0, inplace=True)


def find_nuclei(logits: Tensor, top_p: Tensor) -> Iterator[FilteredRows]:
    """Yield every row once, with the tokens outside its nucleus dropped.

    logits: [num_rows, vocab].  top_p: [num_rows], in (0, 1]; 1 keeps all.
    """
    everything = (top_p >= 1).nonzero()[:, 0]
    if len(everything) > 0:
        yield FilteredRows(everything, None, pick_rows(logits, everything))
    rows = (top_p < 1).nonzero()[:, 0]
    if len(rows) == 0:
        return
    logits = pick_rows(logits, rows)
    best = logits.amax(dim=-1, keepdim=True)
    target = top_p[rows, None] * _add_up(weigh(logits, best))
    ranked, columns = largest(logits, min(_USUAL_SIZE, logits.shape[-1]))
    border, surplus, decided = _find_border(ranked, best, target)
    few = decided.nonzero()[:, 0]
    if len(few) > 0:
        token_ids = columns[few].sort(dim=-1).values
        candidates = logits[few[:, None], token_ids]
        yield FilteredRows(rows[few], token_ids, _cut(candidates, border[few], surplus[few]))
    many = (~decided).nonzero()[:, 0]
    if len(many) > 0:
        chosen = pick_rows(logits, many)
        border, surplus, _ = _find_border(sort_values(chosen), best[many], target[many])
        yield FilteredRows(rows[many], None, _cut(chosen, border, surplus))


def _add_up(weights: Tensor) -> Tensor:
    """Return each row's sum, [num_rows, 1]: the same whatever rows stand beside it.

    sum() divides a long row that is alone among the threads, and so rounds it in another way; it never divides
    these pieces. Within a piece float32 is wide enough: the weights themselves are no more exact.
    """
    count, wide = weights.shape[-1] // _PIECE, wide_dtype(weights.device)
    pieces = weights[:, : count * _PIECE].view(len(weights), count, _PIECE).sum(dim=-1)
    rest = weights[:, count * _PIECE :].sum(dim=-1, keepdim=True, dtype=wide)
    return pieces.sum(dim=-1, keepdim=True, dtype=wide) + rest


def _find_border(ranked: Tensor, best: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the least logit of each row's nucleus, and how many tokens that equal it are too many; [num_rows, 1] each.

    ranked: the row's largest logits, the largest first, [num_rows, width].  target: the sum of weights to reach.
    The third result, [num_rows], says for which rows no other token matters: the nucleus and all ties at its
    border lie within ``ranked``. If ``ranked`` is the whole row, the answer holds in any case.
    """
    reached = weigh(ranked, best).cumsum(dim=-1, dtype=target.dtype)
    # Rounding may leave even the whole row short of its target; then all of it is the nucleus.
    last = torch.searchsorted(reached, target).clamp(max=ranked.shape[-1] - 1)
    border = ranked.gather(1, last)
    at_least = (ranked >= border).sum(dim=-1, keepdim=True, dtype=torch.int32)
    return border, at_least - last - 1, at_least[:, 0] < ranked.shape[-1]


def _cut(logits: Tensor, border: Tensor, surplus: Tensor) -> Tensor:
    """Drop what is below the border, and of the tokens that equal it the first ones, as many as are too many."""
    kept = torch.where(logits < border, -math.inf, logits)
    tied = (surplus > 0).nonzero()[:, 0]
    if len(tied) > 0:
        equal = kept[tied] == border[tied]
        goes = equal & (equal.cumsum(dim=-1) <= surplus[tied])
        kept[tied] = kept[tied].masked_fill(goes, -math.inf)
    return kept
