"""The capstone's two classes: the course's own, and what a learner's lack."""

from dataclasses import dataclass

import torch
from torch import Tensor

from folovllm.course.exercises.patterns.strategies import epsilon_solution
from folovllm.sampling.sampler import Sampler
from folovllm.sampling_params import SamplingParams
from folovllm.validation import real_number


@dataclass(frozen=True)
class ReferenceParams(SamplingParams):
    """Sampling parameters with an epsilon in [0, 1); 0 is off."""

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= real_number("epsilon", self.epsilon) < 1:
            raise ValueError(f"epsilon must be in [0, 1), got {self.epsilon!r}")


class ReferenceSampler(Sampler):
    """Drops what is less probable than each request's epsilon."""

    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        """Return the logits of the tokens that may be drawn."""
        epsilons = [getattr(each, "epsilon", 0.0) for each in params]
        return epsilon_solution(logits, torch.tensor(epsilons, device=logits.device))


CLASSES = {
    "MyParams": (
        "if not (type(self.epsilon) in (int, float) and 0 <= self.epsilon < 1):\n"
        '    raise ValueError(f"epsilon must be in [0, 1), got {self.epsilon!r}")'
    ),
    "MySampler": (
        'epsilons = [getattr(each, "epsilon", 0.0) for each in params]\n'
        "return my_epsilon(logits, torch.tensor(epsilons, device=logits.device))"
    ),
}
"""What belongs in place of ``raise NotImplementedError`` in the capstone's classes."""
