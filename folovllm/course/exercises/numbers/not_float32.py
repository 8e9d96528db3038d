"""A complaint of exercises whose result is float32."""

import torch
from torch import Tensor

from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.language import _


def not_float32(case: Case, outcome: Outcome) -> str:
    """Complain of a tensor whose numbers are right and take another number of bytes than asked for."""
    if not isinstance(outcome.value, Tensor) or outcome.value.dtype == torch.float32:
        return ""
    return _("the numbers are right, but your tensor is {dtype}; return torch.float32").format(
        dtype=outcome.value.dtype
    )
