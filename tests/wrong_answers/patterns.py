"""Wrong answers to the exercises of ``folovllm.course.exercises.patterns``."""

from collections.abc import Callable
from typing import Any

import torch

from folovllm.course.exercises.patterns.strategies import changes_its_argument, epsilon_solution, keeps_everything
from folovllm.course.exercises.patterns.tests_check import WRONG_STRATEGIES


def drops_in_place(logits, epsilon):
    probs = logits.softmax(dim=-1)
    logits[(probs < epsilon[:, None]) & (probs < probs.amax(dim=-1, keepdim=True))] = -torch.inf
    return logits


def returns_float64(logits, epsilon):
    return epsilon_solution(logits.double(), epsilon)


def keeps_the_last_of_equals(logits, epsilon):
    probs = logits.softmax(dim=-1)
    dropped = probs < epsilon[:, None]
    last = probs.shape[-1] - 1 - probs.flip(-1).argmax(dim=-1, keepdim=True)
    return logits.masked_fill(dropped.scatter(1, last, False), -torch.inf)


def keeps_the_first_token(logits, epsilon):
    dropped = logits.softmax(dim=-1) < epsilon[:, None]
    dropped[:, 0] = False
    return logits.masked_fill(dropped, -torch.inf)


def keeps_all_where_none_reaches(logits, epsilon):
    dropped = logits.softmax(dim=-1) < epsilon[:, None]
    return logits.masked_fill(dropped & ~dropped.all(dim=-1, keepdim=True), -torch.inf)


def normalises_what_is_left(logits, epsilon):
    return epsilon_solution(logits, epsilon).log_softmax(dim=-1)


def writes_a_large_negative_number(logits, epsilon):
    return epsilon_solution(logits, epsilon).clamp(min=-1e4)


def overflows(logits, epsilon):
    probs = logits.exp() / logits.exp().sum(dim=-1, keepdim=True)
    likeliest = logits == logits.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probs < epsilon[:, None]) & ~likeliest, -torch.inf)


def is_top_p(logits, epsilon):
    ranked, ids = logits.sort(dim=-1, descending=True)
    dropped = ranked.softmax(dim=-1).cumsum(dim=-1) > 1 - epsilon[:, None]
    dropped[:, 0] = False
    return logits.masked_fill(dropped.scatter(1, ids, dropped), -torch.inf)


def returns_a_list(logits, epsilon):
    return epsilon_solution(logits, epsilon).tolist()


def returns_the_mask(logits, epsilon):
    return epsilon_solution(logits, epsilon) > -torch.inf


def returns_nothing(logits, epsilon):
    epsilon_solution(logits, epsilon)


def takes_the_mean_epsilon(logits, epsilon):
    return epsilon_solution(logits, epsilon.mean().expand(len(logits)))


def takes_small_epsilons_for_off(logits, epsilon):
    return epsilon_solution(logits, torch.where(epsilon < 1e-3, 0.0, epsilon))


def has_the_smallest_epsilon(logits, epsilon):
    return epsilon_solution(logits, epsilon.min().expand(len(logits)))


def returns_the_callers_where_all_are_off(logits, epsilon):
    return epsilon_solution(logits, epsilon) if epsilon.any() else logits


def returns_the_callers_where_nothing_is_dropped(logits, epsilon):
    left = epsilon_solution(logits, epsilon)
    return logits if left.equal(logits) else left


def drops_at_epsilon_unless_off(logits, epsilon):
    probs = logits.softmax(dim=-1)
    likeliest = probs == probs.amax(dim=-1, keepdim=True)
    dropped = (probs <= epsilon[:, None]) & (epsilon[:, None] > 0) & ~likeliest
    return logits.masked_fill(dropped, -torch.inf)


def keeps_above_epsilon(logits, epsilon):
    probs = logits.softmax(dim=-1)
    kept = (probs > epsilon[:, None]) | (probs == probs.amax(dim=-1, keepdim=True)) | (epsilon[:, None] == 0)
    return torch.where(kept, logits, -torch.inf)


def tolerates_at_epsilon(logits, epsilon):
    probs = logits.softmax(dim=-1)
    kept = (probs >= epsilon[:, None]) | torch.isclose(probs, epsilon[:, None])
    return torch.where(kept | (probs == probs.amax(dim=-1, keepdim=True)), logits, -torch.inf)


def looks_at_a_hundred(logits, epsilon):
    values, ids = logits.softmax(dim=-1).topk(min(100, logits.shape[1]), dim=-1)
    kept = (values >= epsilon[:, None]) | (values == values[:, :1])
    return logits.masked_fill(~torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, kept), -torch.inf)


def rounds_to(decimals):
    """Round probabilities before they are compared, with epsilon and with each other."""

    def rounds(logits, epsilon):
        probs = logits.softmax(dim=-1).round(decimals=decimals)
        likeliest = probs == probs.amax(dim=-1, keepdim=True)
        return logits.masked_fill((probs < epsilon[:, None]) & ~likeliest, -torch.inf)

    return rounds


def leaves_a_margin_of(margin):
    """Keep what is less probable than epsilon by so little."""
    return lambda logits, epsilon: epsilon_solution(logits, (epsilon - margin).clamp(min=0))


def takes_for_ties(tolerance):
    """Keep what is less probable than the likeliest by so little."""

    def ties(logits, epsilon):
        probs = logits.softmax(dim=-1)
        likeliest = torch.isclose(probs, probs.amax(dim=-1, keepdim=True), atol=tolerance)
        return logits.masked_fill((probs < epsilon[:, None]) & ~likeliest, -torch.inf)

    return ties


def hardly_changed(logits, epsilon):
    return epsilon_solution(logits, epsilon) * 1.000001


def minus_100_for_minus_infinity(logits, epsilon):
    kept = epsilon_solution(logits.clamp(min=-100), epsilon) > -torch.inf
    return logits.masked_fill(~kept, -torch.inf)


WRONG: dict[str, list[Callable[..., Any]]] = {
    "epsilon": [
        *WRONG_STRATEGIES.values(),
        changes_its_argument,
        drops_at_epsilon_unless_off,
        drops_in_place,
        has_the_smallest_epsilon,
        is_top_p,
        keeps_above_epsilon,
        keeps_all_where_none_reaches,
        keeps_everything,
        keeps_the_last_of_equals,
        returns_float64,
        keeps_the_first_token,
        normalises_what_is_left,
        overflows,
        returns_a_list,
        returns_nothing,
        returns_the_callers_where_all_are_off,
        returns_the_callers_where_nothing_is_dropped,
        returns_the_mask,
        looks_at_a_hundred,
        takes_small_epsilons_for_off,
        takes_the_mean_epsilon,
        tolerates_at_epsilon,
        writes_a_large_negative_number,
        *map(rounds_to, (3, 4, 6, 8)),
        *map(leaves_a_margin_of, (1e-4, 1e-5, 1e-6, 1e-7, 1e-9, 1e-12)),
        *map(takes_for_ties, (1e-3, 1e-4, 1e-7, 1e-8)),
    ]
}
WRONG["epsilon"] += [hardly_changed, minus_100_for_minus_infinity, takes_for_ties(1e-6)]
EQUIVALENT: dict[str, dict[str, str]] = {
    "epsilon": {
        "probs = logits.softmax(dim=1)": "logits have two dimensions: 1 is the last one",
        "likeliest = probs == probs.amax(dim=1, keepdim=True)": "logits have two dimensions: 1 is the last one",
    }
}
"""The changed line of code, and why it is right."""
