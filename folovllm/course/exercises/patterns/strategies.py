"""Epsilon sampling, and the ways to get it wrong."""

from collections.abc import Callable

import torch
from torch import Tensor

Strategy = Callable[[Tensor, Tensor], Tensor]
"""From logits [num_seqs, vocab] and epsilon [num_seqs] to logits [num_seqs, vocab]."""
ROUNDING = 1e-6
"""By so large a part of it a probability in float32 may be off."""


def epsilon_solution(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Drop tokens less probable than ``epsilon``, but never a row's likeliest.

    logits: [num_seqs, vocab].  epsilon: [num_seqs], in [0, 1); 0 keeps all. Dropped tokens become -inf.
    Hewitt et al. 2022, arXiv:2210.15191, section 3.
    """
    probs = logits.softmax(dim=-1)
    likeliest = probs == probs.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs < epsilon[:, None]) & ~likeliest, -torch.inf)


def keeps_everything(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Return the logits as they are."""
    return logits.clone()


def compares_logits(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Take a logit for a probability."""
    likeliest = logits == logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill((logits < epsilon[:, None]) & ~likeliest, -torch.inf)


def compares_the_largest_logit(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Take a logit for a probability, and keep nothing for sure."""
    return logits.masked_fill(logits < epsilon[:, None], -torch.inf)


def does_not_normalise(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Take exp(logit) for a probability."""
    likeliest = logits == logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill((logits.exp() < epsilon[:, None]) & ~likeliest, -torch.inf)


def drops_them_all(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Forget that one token must stay."""
    return logits.masked_fill(logits.softmax(dim=-1) < epsilon[:, None], -torch.inf)


def keeps_the_first_of_equals(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Keep one likeliest token for sure, and not all that are as likely."""
    dropped = logits.softmax(dim=-1) < epsilon[:, None]
    return logits.masked_fill(dropped.scatter(1, logits.argmax(dim=-1, keepdim=True), False), -torch.inf)


def is_min_p(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Compare with a share of the likeliest token's probability."""
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < epsilon[:, None] * probs.amax(dim=-1, keepdim=True), -torch.inf)


def has_one_epsilon(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Use the first row's epsilon for every row."""
    return epsilon_solution(logits, epsilon[:1].expand(len(logits)))


def has_the_largest_epsilon(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Use the largest epsilon of the batch for every row."""
    return epsilon_solution(logits, epsilon.max().expand(len(logits)))


def drops_at_epsilon(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Drop a token exactly at epsilon too, and so, with epsilon 0, one whose probability rounds to 0."""
    probs = logits.softmax(dim=-1)
    likeliest = probs == probs.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs <= epsilon[:, None]) & ~likeliest, -torch.inf)


def keeps_the_best_of_the_batch(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Keep the likeliest token of all rows, instead of each row's."""
    probs = logits.softmax(dim=-1)
    return logits.masked_fill((probs < epsilon[:, None]) & (probs < probs.max()), -torch.inf)


def writes_zeros(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Set what is dropped to 0, which is a logit like any other."""
    return torch.where(epsilon_solution(logits, epsilon) == -torch.inf, 0.0, logits)


def returns_probabilities(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Return the softmax of the right logits."""
    return epsilon_solution(logits, epsilon).softmax(dim=-1)


def makes_probabilities(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Return the softmax, and drop nothing."""
    return logits.softmax(dim=-1)


def masks_probabilities(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Mask the right tokens, of the probabilities."""
    return logits.softmax(dim=-1).masked_fill(epsilon_solution(logits, epsilon) == -torch.inf, -torch.inf)


def masks_probabilities_with_zeros(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Set the right probabilities to 0."""
    return logits.softmax(dim=-1).masked_fill(epsilon_solution(logits, epsilon) == -torch.inf, 0.0)


def returns_log_probabilities(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Mask the right tokens, of the log-probabilities."""
    return logits.log_softmax(dim=-1).masked_fill(epsilon_solution(logits, epsilon) == -torch.inf, -torch.inf)


def writes_the_smallest_number(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Set what is dropped to the smallest finite number."""
    smallest = torch.finfo(logits.dtype).min
    return torch.where(epsilon_solution(logits, epsilon) == -torch.inf, smallest, logits)


def takes_columns_for_rows(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Normalise over the sequences instead of the vocabulary."""
    probs = logits.softmax(dim=0)
    likeliest = probs == probs.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs < epsilon[:, None]) & ~likeliest, -torch.inf)


def rounds(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Round probabilities to two decimals before they are compared."""
    probs = logits.softmax(dim=-1)
    likeliest = probs == probs.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs.round(decimals=2) < epsilon[:, None]) & ~likeliest, -torch.inf)


def changes_its_argument(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Return what is right, but write it over the caller's logits."""
    return logits.copy_(epsilon_solution(logits, epsilon))


def keeps_the_unlikely(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Drop what is probable enough, and keep the rest."""
    probs = logits.softmax(dim=-1)
    likeliest = probs == probs.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs >= epsilon[:, None]) & ~likeliest, -torch.inf)
