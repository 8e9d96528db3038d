"""The capstone of chapter 06: a strategy that the engine does not have, with the mistakes that its check knows."""

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake


def epsilon_solution(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Drop tokens less probable than ``epsilon``, but never a row's likeliest.

    logits: [num_seqs, vocab].  epsilon: [num_seqs], in [0, 1); 0 keeps all. Dropped tokens become -inf.
    Hewitt et al. 2022, arXiv:2210.15191, section 3.
    """
    probs = logits.softmax(dim=-1)
    likeliest = probs == probs.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs < epsilon[:, None]) & ~likeliest, -torch.inf)


def _threshold_on_logits(logits: Tensor, epsilon: Tensor) -> Tensor:
    likeliest = logits == logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill((logits < epsilon[:, None]) & ~likeliest, -torch.inf)


def _not_normalised(logits: Tensor, epsilon: Tensor) -> Tensor:
    likeliest = logits == logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill((logits.exp() < epsilon[:, None]) & ~likeliest, -torch.inf)


def _nothing_left(logits: Tensor, epsilon: Tensor) -> Tensor:
    return logits.masked_fill(logits.softmax(dim=-1) < epsilon[:, None], -torch.inf)


def _min_p(logits: Tensor, epsilon: Tensor) -> Tensor:
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < epsilon[:, None] * probs.amax(dim=-1, keepdim=True), -torch.inf)


def _one_for_all(logits: Tensor, epsilon: Tensor) -> Tensor:
    return epsilon_solution(logits, epsilon[:1].expand(len(logits)))


def _best_of_the_batch(logits: Tensor, epsilon: Tensor) -> Tensor:
    probs = logits.softmax(dim=-1)
    return logits.masked_fill((probs < epsilon[:, None]) & (probs < probs.max()), -torch.inf)


def _zero_logits(logits: Tensor, epsilon: Tensor) -> Tensor:
    return epsilon_solution(logits, epsilon).masked_fill(~_kept(logits, epsilon), 0.0)


def _probabilities(logits: Tensor, epsilon: Tensor) -> Tensor:
    return epsilon_solution(logits, epsilon).softmax(dim=-1)


def _kept(logits: Tensor, epsilon: Tensor) -> Tensor:
    return epsilon_solution(logits, epsilon) > -torch.inf


_BATCH = torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05], [0.05, 0.4, 0.1, 0.3, 0.15], [0.26, 0.24, 0.23, 0.2, 0.07]]).log()
# The model's scores are no log-probabilities: a row may be shifted, and other filters may have been at work.
_SHIFTED = _BATCH + torch.tensor([[5.0], [-3.0], [0.5]])
_FILTERED = _SHIFTED.clone()
_FILTERED[0, 0] = -torch.inf

EXERCISES = [
    Exercise(
        name="epsilon",
        task="drop tokens less probable than epsilon",
        solution=epsilon_solution,
        cases=[
            (logits, torch.tensor(epsilon))
            for logits in (_BATCH, _SHIFTED, _FILTERED)
            for epsilon in ([0.12, 0.12, 0.12], [0.0, 0.2, 0.22], [0.9, 0.32, 0.3])
        ],
        mistakes=[
            Mistake(
                _threshold_on_logits,
                "you compare logits with epsilon, and a logit can be any number; make probabilities of them first",
            ),
            Mistake(
                _not_normalised,
                "exp(logit) is not a probability yet: nothing makes a row add up to 1; use the softmax",
            ),
            Mistake(
                _nothing_left,
                "where no token reaches epsilon you drop them all, and nothing is left to draw; keep the likeliest",
            ),
            Mistake(
                _min_p,
                "you multiply epsilon by the likeliest token's probability: that is min-p; epsilon is the same for a "
                "sure and an unsure model",
            ),
            Mistake(
                _one_for_all,
                "you use the first sequence's epsilon for all; every row of the batch has its own: epsilon[:, None]",
            ),
            Mistake(
                _best_of_the_batch,
                "you keep the likeliest token of the whole batch; every row must keep its own: amax(dim=-1)",
            ),
            Mistake(
                _zero_logits,
                "you set dropped tokens to 0, which is a logit like any other; -inf is the one that is never drawn",
            ),
            Mistake(
                _probabilities,
                "you return probabilities; the stages after this one expect logits, with -inf where you dropped",
            ),
        ],
        hints=(
            "Each row is one sequence. What must be compared with epsilon is not the logit itself.",
            "`softmax` the rows, mask with -inf what is below `epsilon[:, None]`, except where a token is its row's "
            "likeliest.",
        ),
        code=(
            "probs = logits.softmax(dim=-1)\n"
            "likeliest = probs == probs.amax(dim=-1, keepdim=True)\n"
            "return logits.masked_fill((probs < epsilon[:, None]) & ~likeliest, -torch.inf)"
        ),
    ),
]
