"""What sampling does to one next-token distribution, computed by the engine's own functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from folovllm.config import SamplingOrder
from folovllm.sampling.metadata import SamplingMetadata, SamplingRow
from folovllm.sampling.sampler import choose_greedily, filter_logits, sample_from_uniform
from folovllm.sampling_params import SamplingParams, SamplingType


@dataclass(frozen=True)
class Distribution:
    """One next-token distribution before and after the filters; all arrays over the whole vocabulary.

    before: the model's own probabilities.  tempered: after temperature.
    after: what is drawn from; 0 for tokens that were dropped.
    """

    before: NDArray[np.float64]
    tempered: NDArray[np.float64]
    after: NDArray[np.float64]
    filtered_logits: Tensor

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
        """Draw one token for each number in [0, 1), as the engine does."""
        rows = self.filtered_logits.expand(len(uniforms), -1)
        drawn: NDArray[np.int64] = sample_from_uniform(rows, torch.tensor(uniforms, dtype=torch.float64)).numpy()
        return drawn

    def sentence(self) -> str:
        """Say in one line what the filters did."""
        share = f"{100 * self.kept_mass:.1f} % of the mass"
        return f"{self.num_kept} of {len(self.after)} tokens kept, {share}, entropy {self.entropy:.2f} bits"


def make_distribution(logits: Tensor, params: SamplingParams, order: SamplingOrder = "huggingface") -> Distribution:
    """Apply temperature and filters to the logits of one position, [vocab]."""
    row = logits[None].float()
    metadata = SamplingMetadata.build([SamplingRow(params, (), (), uniform=0.0)], row.shape[-1], row.device)
    if params.sampling_type == SamplingType.GREEDY:
        best = choose_greedily(row)
        filtered = torch.full_like(row, -math.inf).index_fill(1, best, 0.0)
        tempered = filtered
    else:
        filtered = filter_logits(row, metadata, order)
        tempered = row / params.temperature
    before, scaled, after = (_softmax(each) for each in (row, tempered, filtered))
    return Distribution(before, scaled, after, filtered)


def _softmax(logits: Tensor) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = logits[0].double().softmax(dim=-1).cpu().numpy()
    return probabilities
