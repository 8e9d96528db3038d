"""The capstone of chapter 06: a strategy that the engine does not have, with the mistakes that its check knows."""

import math
import random

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.language import _


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


def _keeps_the_unlikely(logits: Tensor, epsilon: Tensor) -> Tensor:
    probs = logits.softmax(dim=-1)
    likeliest = probs == probs.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs >= epsilon[:, None]) & ~likeliest, -torch.inf)


def _another_dtype(case: Case, outcome: Outcome) -> str:
    """Complain of logits whose numbers are right, of another dtype than those that were given."""
    logits: Tensor = case[0]
    if not isinstance(outcome.value, Tensor) or outcome.value.dtype == logits.dtype:
        return ""
    given, wanted = (str(each.dtype).removeprefix("torch.") for each in (outcome.value, logits))
    return _("your function returns {given}; the logits were {wanted}, and the engine goes on with that").format(
        given=given, wanted=wanted
    )


def _case(rng: random.Random) -> tuple[Tensor, Tensor]:
    """Return a batch: ties and near ties, tokens already dropped, large logits, epsilons of all sizes and near them."""
    num_seqs, vocab = rng.choice([1, 2, 3, 5]), rng.choice([1, 2, 5, 9, 40])
    spread = rng.choice([0.5, 2.0, 30.0])
    epsilons = [rng.choice([0.0, 0.0, 3e-4, 0.005, 0.02, 0.1, 0.3, 0.9, rng.random()]) for _ in range(num_seqs)]
    rows = [
        _row_about(epsilon, vocab, rng) if rng.random() < 0.4 else [rng.gauss(0, spread) for _ in range(vocab)]
        for epsilon in epsilons
    ]
    for row in rows:
        if rng.random() < 0.3:
            row[:] = [rng.choice(row) for _ in row]  # ties, of the likeliest too
        if rng.random() < 0.3:
            row[-1] = max(row) - rng.choice([2e-3, 3e-4])  # nearly as likely as the likeliest is less likely
        if rng.random() < 0.4:
            best = max(row)
            row[:] = [each if each == best or rng.random() < 0.7 else -torch.inf for each in row]
        shift = rng.choice([0.0, 7.0, -7.0, 300.0])
        row[:] = [each + shift for each in row]
    logits, epsilon = torch.tensor(rows), torch.tensor(epsilons)
    return logits, _apart_from_ties(logits, epsilon)


def _row_about(epsilon: float, vocab: int, rng: random.Random) -> list[float]:
    """Return a row whose last tokens are as probable as epsilon, a little more or less; its first takes the rest."""
    near = [max(epsilon, 1e-4) * rng.choice([0.6, 0.98, 1.02, 1.4]) for _ in range(vocab - 1)]
    while sum(near) > 0.9:
        near = [each / 2 for each in near]
    return [math.log(each) for each in (1 - sum(near), *near)]


def _apart_from_ties(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Move an epsilon that equals a probability up to rounding: which side is right, no check should decide."""
    probs = logits.double().softmax(dim=-1)
    close = ((probs - epsilon[:, None]).abs() < 1e-6).any(dim=-1) & (epsilon > 0)
    return torch.where(close, (epsilon * 0.97).to(epsilon.dtype), epsilon)


_BATCH = torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05], [0.05, 0.4, 0.1, 0.3, 0.15], [0.26, 0.24, 0.23, 0.2, 0.07]]).log()
# The model's scores are no log-probabilities: a row may be shifted, and other filters may have been at work.
_SHIFTED = _BATCH + torch.tensor([[5.0], [-3.0], [0.5]])
_FILTERED = _SHIFTED.clone()
_FILTERED[0, 0] = -torch.inf
_TO_ROUND = torch.tensor([[0.56, 0.2, 0.146, 0.094]]).log()
_SMALL = torch.tensor([[0.9992, 0.0004, 0.00026, 0.00014]]).log()
_NEARLY_TIED = torch.tensor([[0.3333, 0.3328, 0.3339]]).log()
# A token exactly at epsilon, whichever way probabilities are computed: with a softmax, its logarithm, or in float64.
_AT_EPSILON = [([4, 3, 1], 0.375), ([5, 2, 1], 0.25), ([6, 5, 5], 0.3125), ([8, 5, 3], 0.1875)]
# So little, relative to it, lies below: more than rounding makes, and less than a tolerance lets pass.
_A_LITTLE = 2e-6

EXERCISES = [
    Exercise(
        name="epsilon",
        task="drop tokens less probable than epsilon",
        solution=epsilon_solution,
        cases=[
            (torch.tensor([[0.0, 0.0]]), torch.tensor([0.5])),
            (torch.tensor([[0.0, -200.0]]), torch.tensor([0.0])),
            (_BATCH[:1], torch.tensor([0.12])),
            *[
                (logits, torch.tensor(epsilon))
                for logits in (_BATCH, _SHIFTED, _FILTERED)
                for epsilon in ([0.12, 0.12, 0.12], [0.0, 0.2, 0.22], [0.9, 0.32, 0.3])
            ],
            (_TO_ROUND, torch.tensor([0.148])),
            (_TO_ROUND, torch.tensor([0.092])),
            (torch.tensor([[1.0, 1.0, 1.0, -4.0]]), torch.tensor([0.4])),
            (_NEARLY_TIED, torch.tensor([0.5])),
            (_SMALL, torch.tensor([0.0003])),
            *[
                (torch.tensor([shares]).div(sum(shares)).log(), torch.tensor([epsilon]))
                for shares, at_epsilon in _AT_EPSILON
                for epsilon in (at_epsilon, at_epsilon * (1 + _A_LITTLE))
            ],
            (torch.tensor([[0.0, -_A_LITTLE, -1.0]]), torch.tensor([0.9])),
        ],
        generate=_case,
        complaint=_another_dtype,
        mistakes=[
            Mistake(
                compares_logits,
                "you compare logits with epsilon, and a logit can be any number; make probabilities of them first",
            ),
            Mistake(
                compares_the_largest_logit,
                "you compare logits with epsilon: a logit can be any number, and a whole row can lie below; make "
                "probabilities first, and keep the likeliest token",
            ),
            Mistake(
                does_not_normalise,
                "exp(logit) is not a probability yet: nothing makes a row add up to 1; use the softmax",
            ),
            Mistake(
                drops_them_all,
                "where no token reaches epsilon you drop them all, and nothing is left to draw; keep the likeliest",
            ),
            Mistake(
                keeps_the_first_of_equals,
                "almost: of several equally likely tokens `argmax` names only the first; where none reaches epsilon, "
                "keep every token as likely as the likeliest",
            ),
            Mistake(
                is_min_p,
                "you multiply epsilon by the likeliest token's probability: that is min-p; epsilon is the same for a "
                "sure and an unsure model",
            ),
            Mistake(
                has_one_epsilon,
                "you use the first sequence's epsilon for all; every row of the batch has its own: epsilon[:, None]",
            ),
            Mistake(
                has_the_largest_epsilon,
                "you use the largest epsilon of the batch for all; every row has its own: epsilon[:, None]",
            ),
            Mistake(
                drops_at_epsilon,
                "a token exactly at epsilon stays: compare with <, not with <=; else epsilon 0, which is off, drops "
                "tokens whose probability rounds to 0",
            ),
            Mistake(
                keeps_the_best_of_the_batch,
                "you keep the likeliest token of the whole batch; every row must keep its own: amax(dim=-1)",
            ),
            Mistake(
                writes_zeros,
                "you set dropped tokens to 0, which is a logit like any other; -inf is the one that is never drawn",
            ),
            Mistake(
                writes_the_smallest_number,
                "you set dropped tokens to the smallest finite number; only -inf says to everybody: dropped",
            ),
            Mistake(
                returns_probabilities,
                "you return probabilities; refine must return logits, so leave out the last softmax",
            ),
            Mistake(
                makes_probabilities,
                "you return probabilities; refine must return logits: the given ones, and -inf for what is dropped",
            ),
            Mistake(
                masks_probabilities,
                "you return probabilities; refine must return logits: mask those, not the probabilities",
            ),
            Mistake(
                masks_probabilities_with_zeros,
                "you return probabilities, with 0 for what is dropped; refine must return logits, with -inf",
            ),
            Mistake(
                returns_log_probabilities,
                "you return log-probabilities; a kept token keeps the logit that it had",
            ),
            Mistake(
                takes_columns_for_rows,
                "your softmax runs over the sequences (dim=0), so neighbours in the batch change each other's tokens; "
                "it must run over the vocabulary: dim=-1",
            ),
            Mistake(
                rounds,
                "you round probabilities before you compare them: with epsilon .148 a token of .146 must go, and "
                "rounded to .15 it stays",
            ),
            Mistake(
                _keeps_the_unlikely,
                "you drop the tokens that are probable enough and keep the others; the comparison is the wrong way "
                "round",
            ),
        ],
        hints=(
            "Each row is one sequence. What must be compared with epsilon is not the logit itself.",
            "`softmax` the rows, mask with -inf what is below `epsilon[:, None]`, except where a token is as probable "
            "as its row's likeliest.",
        ),
        code=(
            "probs = logits.softmax(dim=-1)\n"
            "likeliest = probs == probs.amax(dim=-1, keepdim=True)\n"
            "return logits.masked_fill((probs < epsilon[:, None]) & ~likeliest, -torch.inf)"
        ),
    ),
]

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
