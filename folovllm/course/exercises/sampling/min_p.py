"""``min_p``: what is too unlikely beside the likeliest token."""

import math
from random import Random

import torch
from torch import Tensor

from folovllm.course.exercises.exact import nearly_copied
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.sampling.sampler import apply_min_p


def min_p_solution(logits: Tensor, min_p: Tensor) -> Tensor:
    """Return the logits, -inf for tokens less likely than their row's ``min_p`` times its likeliest token."""
    return apply_min_p(logits, min_p)


def _changed_a_little(case: Case, outcome: Outcome) -> str:
    return nearly_copied(outcome, min_p_solution(*case))


def _make_min_p_case(rng: Random) -> tuple[Tensor, Tensor]:
    size = rng.choice([1, 2, 3, 5, 8])
    rows, all_min_p = [], []
    for _ in range(rng.choice([1, 2, 3, 12])):
        top = rng.choice([-20.0, -2.0, 0.0, 3.0, 1000.0])
        # Halves lie far from the logarithm of every min_p, and the first token 0.01 % from the border, or 0.2 % where
        # logits are large: neither is decided by rounding.
        beside = 0.002 if top == 1000 else 1e-4
        row = [top - 0.5 * rng.choice([0, 1, 2, 3, 5, 7, 9]) for _ in range(size)]
        min_p = rng.choice([0.0, 1e-30, 1e-8, 0.02, 0.1, 0.3, 0.7, 0.9, 1.0, 1.0])
        if size > 1 and min_p > 0:
            row[0] = top + math.log(min_p) + rng.choice([-beside, beside] if min_p < 1 else [-beside])
        row[rng.randrange(size)] = top
        if size > 2 and rng.random() < 0.3:
            row[row.index(min(row))] = -torch.inf
        rows.append(row)
        all_min_p.append(min_p)
    return torch.tensor(rows), torch.tensor(all_min_p)


def _drop(logits: Tensor, is_dropped: Tensor) -> Tensor:
    return logits.masked_fill(is_dropped, -torch.inf)


def _largest(logits: Tensor) -> Tensor:
    return logits.amax(dim=-1, keepdim=True)


def _absolute_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits.softmax(dim=-1) < min_p[:, None])


def _share_of_the_logit(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits < min_p[:, None] * _largest(logits))


def _maximum_of_the_batch(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits < logits.max() + min_p.log()[:, None])


def _dropped_instead_of_kept(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits >= _largest(logits) + min_p.log()[:, None])


def _up_to_the_border_dropped(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits <= _largest(logits) + min_p.log()[:, None])


def _border_dropped(logits: Tensor, min_p: Tensor) -> Tensor:
    return _up_to_the_border_dropped(logits, min_p).where(logits < _largest(logits), logits)


def _in_float64(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits.double() < _largest(logits.double()) + min_p.double().log()[:, None])


def _share_of_the_mean(logits: Tensor, min_p: Tensor) -> Tensor:
    probs = logits.softmax(dim=-1)
    return _drop(logits, probs < min_p[:, None] * probs.mean(dim=-1, keepdim=True))


def _minus_min_p(logits: Tensor, min_p: Tensor) -> Tensor:
    return _drop(logits, logits < _largest(logits) - min_p[:, None])


def _probabilities_returned(logits: Tensor, min_p: Tensor) -> Tensor:
    return min_p_solution(logits, min_p).softmax(dim=-1)


def _probabilities_not_renormalised(logits: Tensor, min_p: Tensor) -> Tensor:
    return logits.softmax(dim=-1).masked_fill(min_p_solution(logits, min_p) == -torch.inf, 0.0)


def _mask_returned(logits: Tensor, min_p: Tensor) -> Tensor:
    return min_p_solution(logits, min_p) > -torch.inf


def _zero_for_dropped(logits: Tensor, min_p: Tensor) -> Tensor:
    return logits.masked_fill(logits < _largest(logits) + min_p.log()[:, None], 0.0)


EXERCISE = Exercise(
    name="min_p",
    task="drop what min-p drops, in every row of a batch",
    solution=min_p_solution,
    cases=[
        (torch.tensor([[3.0, 2.5, 0.0]]), torch.tensor([0.1])),
        (torch.tensor([[3.0, 2.5, 0.0], [3.0, 2.5, 0.0]]), torch.tensor([0.9, 0.02])),
        (torch.tensor([[3.0, 2.5, 0.0], [-5.0, -5.5, -20.0]]), torch.tensor([0.1, 0.1])),
        (torch.tensor([[3.0, 2.5, 0.0]]), torch.tensor([0.02])),
        (torch.linspace(-9, 9, 2000).repeat(2, 1), torch.tensor([0.1, 0.0])),
        (torch.tensor([[1.0, 0.0, -50.0]]), torch.tensor([0.0])),
        (torch.tensor([[0.0, -200.0]]), torch.tensor([0.0])),
        (torch.tensor([[0.0, -20.0]]), torch.tensor([1e-8])),
        (torch.tensor([[0.0, -80.0]]), torch.tensor([1e-30])),
        (torch.tensor([[0.0, math.log(0.1) - 1e-4]]), torch.tensor([0.1])),
        (torch.tensor([[1.0, 1.0, -torch.inf]]), torch.tensor([1.0])),
        (torch.tensor([[0.0, -5e-7]]), torch.tensor([1.0])),
        (torch.tensor([[20.0, 19.999992]]), torch.tensor([1.0])),  # nearly equal is not equal
        (torch.tensor([[0.5, 1.0, 0.2]]).log(), torch.tensor([0.5])),  # at the border, whichever way it is computed
        (torch.tensor([[0.25, 1.0, 0.1]]).log(), torch.tensor([0.25])),
        (torch.tensor([[1.0, 0.75, 0.25]]).log(), torch.tensor([0.75])),  # at the border in float64 too
    ],
    generate=_make_min_p_case,
    complaint=_changed_a_little,
    mistakes=[
        Mistake(
            _absolute_min_p,
            "you compare with min_p itself; the threshold is min_p times the likeliest token's probability, so "
            "that it is strict when the model is sure and lenient when it is not",
        ),
        Mistake(
            _share_of_the_logit,
            "you multiply a logit by min_p, but min_p is a ratio of probabilities; in logits a ratio is a "
            "difference: add the logarithm of min_p to the largest logit",
        ),
        Mistake(
            _maximum_of_the_batch,
            "you compare with the largest logit of the whole batch; each request has a likeliest token of its own",
        ),
        Mistake(_dropped_instead_of_kept, "you drop the likely tokens and keep the others; turn the comparison"),
        Mistake(
            _in_float64,
            "you compute in float64, in which a border token may lie on the other side; compute in float32",
        ),
        Mistake(
            _border_dropped,
            "you drop tokens at the border too; min-p keeps those with *at least* min_p times what the likeliest "
            "has: drop where the logit is below the threshold (<)",
        ),
        Mistake(
            _up_to_the_border_dropped,
            "you drop tokens at the border too, and with min_p = 1 even the likeliest; drop where the logit is below "
            "the threshold (<), not at it",
        ),
        Mistake(_share_of_the_mean, "you compare with the mean; the threshold is relative to the maximum"),
        Mistake(
            _minus_min_p,
            "you subtract min_p itself from the largest logit; add its logarithm instead",
        ),
        Mistake(_probabilities_returned, "you return probabilities; the next filter wants logits, -inf where dropped"),
        Mistake(
            _probabilities_not_renormalised,
            "you return probabilities, 0 where dropped; the next filter wants logits, -inf where dropped",
        ),
        Mistake(_mask_returned, "you return a mask; the next filter wants logits, -inf where dropped"),
        Mistake(
            _zero_for_dropped,
            "you set dropped logits to 0, which is a logit like others; -inf is the one of probability 0",
        ),
    ],
    hints=(
        "One token is min_p times as likely as another: how far apart are their logits?",
        "The log of a ratio of probabilities is a difference of logits. So the threshold of a row is its `amax` plus "
        "`min_p.log()`; what is below becomes -inf with `masked_fill`.",
    ),
    code=(
        "threshold = logits.amax(dim=-1, keepdim=True) + min_p.log()[:, None]\n"
        "return logits.masked_fill(logits < threshold, -torch.inf)"
    ),
)
