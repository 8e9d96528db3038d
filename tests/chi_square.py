"""How likely counts are under a law: Pearson's chi-square test.

scipy has it, but transformers imports scipy wherever it is installed: half a second of every learner's start.
"""

from collections.abc import Sequence

import torch


def p_value(observed: Sequence[float], expected: Sequence[float]) -> float:
    """Return the probability of counts at least so far from those expected, given their sum."""
    counts, shares = (torch.as_tensor(each, dtype=torch.float64) for each in (observed, expected))
    assert torch.isclose(counts.sum(), shares.sum()), "both are counts of the same draws"
    return _upper_tail(((counts - shares) ** 2 / shares).sum(), len(counts) - 1)


def p_value_of_one_law(table: Sequence[Sequence[float]]) -> float:
    """Return the probability of rows of counts at least so different, if all are drawn from one law."""
    counts = torch.as_tensor(table, dtype=torch.float64)
    shares = counts.sum(dim=1, keepdim=True) * counts.sum(dim=0, keepdim=True) / counts.sum()
    rows, columns = counts.shape
    return _upper_tail(((counts - shares) ** 2 / shares).sum(), (rows - 1) * (columns - 1))


def _upper_tail(statistic: torch.Tensor, degrees_of_freedom: int) -> float:
    half = torch.tensor(degrees_of_freedom / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half, statistic / 2))
