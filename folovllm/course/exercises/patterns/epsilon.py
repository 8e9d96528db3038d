"""``epsilon``: drop tokens less probable than epsilon."""

import math
import random

import torch
from torch import Tensor

from folovllm.course.exercises.exact import nearly_copied
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.course.exercises.patterns import strategies
from folovllm.language import _


def _not_as_given(case: Case, outcome: Outcome) -> str:
    """Complain of logits whose numbers are nearly right, or of another dtype than those that were given."""
    logits: Tensor = case[0]
    if not isinstance(outcome.value, Tensor) or outcome.value.dtype == logits.dtype:
        return nearly_copied(outcome, strategies.epsilon_solution(*case))
    given, wanted = (str(each.dtype).removeprefix("torch.") for each in (outcome.value, logits))
    return _("your function returns {given}; the logits were {wanted}, and the engine goes on with that").format(
        given=given, wanted=wanted
    )


def _case(rng: random.Random) -> tuple[Tensor, Tensor]:
    """Return a batch: ties and near ties, tokens already dropped, large logits, epsilons of all sizes and near them."""
    num_seqs, vocab = rng.choice([1, 2, 3, 5, 12]), rng.choice([1, 2, 5, 9, 40])
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

EXERCISE = Exercise(
    name="epsilon",
    task="drop tokens less probable than epsilon",
    solution=strategies.epsilon_solution,
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
        *[(torch.tensor([[0.0, -little, -1.0]]), torch.tensor([0.9])) for little in (_A_LITTLE, 5e-7)],
        (torch.tensor([[-torch.inf, -301.0, -301.2]]), torch.tensor([0.5])),  # no number stands in for -inf
        *[(torch.tensor([[1.0, 2 * p, p]]).log(), torch.tensor([1.5 * p])) for p in (1e-7, 1e-9, 1e-13, 1e-20)],
        (torch.linspace(0, 0.01, 4096).roll(9).repeat(2, 1), torch.tensor([0.1, 0.0])),  # many tokens, all improbable
    ],
    generate=_case,
    complaint=_not_as_given,
    mistakes=[
        Mistake(
            strategies.compares_logits,
            "you compare logits with epsilon, and a logit can be any number; make probabilities of them first",
        ),
        Mistake(
            strategies.compares_the_largest_logit,
            "you compare logits with epsilon: a logit can be any number, and a whole row can lie below; make "
            "probabilities first, and keep the likeliest token",
        ),
        Mistake(
            strategies.does_not_normalise,
            "exp(logit) is not a probability yet: nothing makes a row add up to 1; use the softmax",
        ),
        Mistake(
            strategies.drops_them_all,
            "where no token reaches epsilon you drop them all, and nothing is left to draw; keep the likeliest",
        ),
        Mistake(
            strategies.keeps_the_first_of_equals,
            "almost: of several equally likely tokens `argmax` names only the first; where none reaches epsilon, "
            "keep every token as likely as the likeliest",
        ),
        Mistake(
            strategies.is_min_p,
            "you multiply epsilon by the likeliest token's probability: that is min-p; epsilon is the same for a "
            "sure and an unsure model",
        ),
        Mistake(
            strategies.has_one_epsilon,
            "you use the first sequence's epsilon for all; every row of the batch has its own: epsilon[:, None]",
        ),
        Mistake(
            strategies.has_the_largest_epsilon,
            "you use the largest epsilon of the batch for all; every row has its own: epsilon[:, None]",
        ),
        Mistake(
            strategies.drops_at_epsilon,
            "a token exactly at epsilon stays: drop with <, or keep with >=; else epsilon 0, which is off, drops "
            "tokens whose probability rounds to 0",
        ),
        Mistake(
            strategies.keeps_the_best_of_the_batch,
            "you keep the likeliest token of the whole batch; every row must keep its own: amax(dim=-1)",
        ),
        Mistake(
            strategies.writes_zeros,
            "you set dropped tokens to 0, which is a logit like any other; -inf is the one that is never drawn",
        ),
        Mistake(
            strategies.writes_the_smallest_number,
            "you set dropped tokens to the smallest finite number; only -inf says to everybody: dropped",
        ),
        Mistake(
            strategies.returns_probabilities,
            "you return probabilities; refine must return logits, so leave out the last softmax",
        ),
        Mistake(
            strategies.makes_probabilities,
            "you return probabilities; refine must return logits: the given ones, and -inf for what is dropped",
        ),
        Mistake(
            strategies.masks_probabilities,
            "you return probabilities; refine must return logits: mask those, not the probabilities",
        ),
        Mistake(
            strategies.masks_probabilities_with_zeros,
            "you return probabilities, with 0 for what is dropped; refine must return logits, with -inf",
        ),
        Mistake(
            strategies.returns_log_probabilities,
            "you return log-probabilities; a kept token keeps the logit that it had",
        ),
        Mistake(
            strategies.takes_columns_for_rows,
            "your softmax runs over the sequences (dim=0), so neighbours in the batch change each other's tokens; "
            "it must run over the vocabulary: dim=-1",
        ),
        Mistake(
            strategies.rounds,
            "you round probabilities before you compare them: with epsilon .148 a token of .146 must go, and "
            "rounded to .15 it stays",
        ),
        Mistake(
            strategies.keeps_the_unlikely,
            "you drop the tokens that are probable enough and keep the others; the comparison is the wrong way round",
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
)
