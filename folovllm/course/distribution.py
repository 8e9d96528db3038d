"""What sampling does to one next-token distribution, computed by the engine's own functions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from folovllm.config import SamplingOrder
from folovllm.language import _
from folovllm.sampling.metadata import SamplingMetadata, SamplingRow
from folovllm.sampling.sampler import choose_greedily, filter_logits, sample_from_uniform
from folovllm.sampling_params import SamplingParams, SamplingType


@dataclass(frozen=True)
class FilterStep:
    """What one filter left of a distribution.

    name: "temperature", "top-k", "top-p" or "min-p".  value: its setting.
    is_on: whether it did anything at all; a filter that is off leaves what the one before it left.
    num_left: tokens that are left.  mass_left: their share of the probability after temperature.
    """

    name: str
    value: float
    is_on: bool
    num_left: int
    mass_left: float


@dataclass(frozen=True)
class Distribution:
    """One next-token distribution before and after the filters; all arrays over the whole vocabulary.

    before: the model's own probabilities.  tempered: after temperature.
    after: what is drawn from; 0 for tokens that were dropped.
    steps: temperature and the filters in the order in which they ran.
    """

    before: NDArray[np.float64]
    tempered: NDArray[np.float64]
    after: NDArray[np.float64]
    filtered_logits: Tensor
    steps: tuple[FilterStep, ...]

    @property
    def num_kept(self) -> int:
        """Count the tokens that can still be drawn."""
        return int((self.after > 0).sum())

    @property
    def kept_mass(self) -> float:
        """Return how much probability (after temperature) the kept tokens had."""
        return float(self.tempered[self.after > 0].sum())

    @property
    def entropy(self) -> float:
        """Return the entropy of what is drawn from, in bits: 0 is certain, 10 is one of 1024 equal tokens."""
        p = self.after[self.after > 0]
        return float(-(p * np.log2(p)).sum()) + 0.0

    def draw(self, uniforms: Sequence[float]) -> NDArray[np.int64]:
        """Draw one token for each number in [0, 1), as the engine does.

        Only kept tokens are given to it: the others have no part of [0, 1), and there are a hundred times as many.
        """
        kept = self.filtered_logits[0].isfinite().nonzero()[:, 0]
        rows = self.filtered_logits[:, kept].expand(len(uniforms), -1)
        drawn: NDArray[np.int64] = kept[sample_from_uniform(rows, torch.tensor(uniforms, dtype=torch.float64))].numpy()
        return drawn

    def sentence(self) -> str:
        """Say in one line what the filters did."""
        kept = _("{num_kept} of {num_after} tokens kept").format(num_kept=self.num_kept, num_after=len(self.after))
        share = _("{kept_mass:.1f} % of the probability after temperature").format(kept_mass=100 * self.kept_mass)
        return _("{kept}, with {share}; entropy {entropy:.2f} bits").format(
            kept=kept, share=share, entropy=self.entropy
        )


def make_distribution(logits: Tensor, params: SamplingParams, order: SamplingOrder = "huggingface") -> Distribution:
    """Apply temperature and filters to the logits of one position, [vocab]."""
    row = logits[None].float()
    if params.sampling_type == SamplingType.GREEDY:
        filtered = torch.full_like(row, -math.inf).index_fill(1, choose_greedily(row), 0.0)
        tempered = filtered
    else:
        filtered = _filter(row, params, order)
        tempered = row / params.temperature
    before, scaled, after = (_softmax(each) for each in (row, tempered, filtered))
    return Distribution(before, scaled, after, filtered, tuple(_steps(row, params, order, scaled, after)))


# Of each filter: its parameter, its name for people, and the value with which it does nothing.
_FILTERS = {"top_k": ("top-k", 0), "top_p": ("top-p", 1), "min_p": ("min-p", 0)}
ORDERS: dict[SamplingOrder, tuple[str, ...]] = {
    "huggingface": ("top_k", "top_p", "min_p"),
    "vllm": ("min_p", "top_k", "top_p"),
}
"""The filters in the order in which each way runs them, after temperature."""


def _filter(row: Tensor, params: SamplingParams, order: SamplingOrder) -> Tensor:
    metadata = SamplingMetadata.build([SamplingRow(params, (), (), uniform=0.0)], row.shape[-1], row.device)
    return filter_logits(row, metadata, order)


def _steps(
    row: Tensor,
    params: SamplingParams,
    order: SamplingOrder,
    tempered: NDArray[np.float64],
    after: NDArray[np.float64],
) -> Iterator[FilterStep]:
    """Run the engine with the first filter alone, then with the first two, and so on: what is left after each."""
    is_greedy = params.sampling_type == SamplingType.GREEDY
    names = ORDERS[order]
    asked = [name for name in names if getattr(params, name) != _FILTERS[name][1] and not is_greedy]
    left, mass = int((tempered > 0).sum()), 1.0
    yield FilterStep("temperature", params.temperature, params.temperature != 1, left, mass)
    wishes: dict[str, Any] = {"temperature": params.temperature}
    for name in names:
        wishes[name] = getattr(params, name)
        if name in asked:
            kept = after > 0
            if name != asked[-1]:
                finite = torch.isfinite(_filter(row, SamplingParams(**wishes), order))[0]
                kept = finite.cpu().numpy() & (tempered > 0)
            left, mass = int(kept.sum()), float(tempered[kept].sum())
        yield FilterStep(_FILTERS[name][0], wishes[name], name in asked, left, mass)


def _softmax(logits: Tensor) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = logits[0].double().softmax(dim=-1).cpu().numpy()
    return probabilities
