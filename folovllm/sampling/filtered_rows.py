"""Some rows of a batch's logits on their way through the filters, as wide as what is left of them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


def pick_rows(logits: Tensor, rows: Tensor) -> Tensor:
    """Return some rows, in ascending order; all of them cost no copy."""
    return logits if len(rows) == len(logits) else logits[rows]


@dataclass(frozen=True)
class FilteredRows:
    """Rows that are treated together.

    rows: which they are, [n].  token_ids: [n, width], ascending, the tokens that ``logits``, [n, width],
    stand for, all others being dropped; None if they are the whole vocabulary.
    """

    rows: Tensor
    token_ids: Tensor | None
    logits: Tensor

    def part(self, inner: "FilteredRows") -> "FilteredRows":
        """Return ``inner``, which counts its rows and tokens within this one, as rows and tokens of the batch."""
        mine = None if self.token_ids is None else self.token_ids[inner.rows]
        if mine is None:
            token_ids = inner.token_ids
        else:
            token_ids = mine if inner.token_ids is None else mine.gather(1, inner.token_ids)
        return FilteredRows(self.rows[inner.rows], token_ids, inner.logits)


def lay_out(parts: Iterable[FilteredRows], logits: Tensor) -> Tensor:
    """Return all parts in their places in the whole vocabulary, [num_seqs, vocab]; each row is in one of them."""
    whole = torch.empty_like(logits)
    for part in parts:
        if part.token_ids is None:
            whole[part.rows] = part.logits
        else:
            whole[part.rows] = -math.inf
            whole[part.rows[:, None], part.token_ids] = part.logits
    return whole
