"""``top_p``: the smallest set of tokens that reaches p."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Outcome

_PARTS = (64, 4096)
"""Generated probabilities are so many parts of 1: float32 adds them without rounding, so a tie is a tie."""
_BESIDE = 1 / 32
"""So little of a part is p above or below a sum."""


def top_p_solution(probs: Tensor, p: float) -> Tensor:
    """Return which tokens stay: True or False for each. (The engine's rule, in probabilities instead of logits.)"""
    ranked, order = (each.flip(0) for each in probs.sort(stable=True))
    mass_before = ranked.double().cumsum(0) - ranked
    return torch.zeros_like(probs, dtype=torch.bool).scatter(0, order, mass_before < p)


def _make_top_p_case(rng: Random) -> tuple[Tensor, float]:
    """Return few tokens, often equal ones, or many; and a p that is often the sum of some or just beside it."""
    has_many = rng.random() < 0.2
    parts = 4096 if has_many else rng.choice(_PARTS)
    if rng.random() < 0.1:
        p = rng.choice([1e-7, 1e-8])  # 1 - p is 1 in float32
        return torch.tensor(rng.choice([[0.6, 0.4], [0.25, 0.75], [0.5, 0.5], [1.0]])), p
    common = [0, parts // 8, parts // 4, parts // 2, 3 * parts // 4, parts - 1, parts]
    if has_many:
        shares = [*range(1, 90), 91]  # all different: how a sort ranks many equal ones differs from machine to machine
    else:
        places = [*common, *(rng.randint(0, parts) for _ in common)]
        cuts = sorted(rng.choices(places, k=rng.choice([0, 1, 2, 3, 4, 7])))
        shares = [end - start for start, end in pairwise([0, *cuts, parts])]  # equal cuts: tokens of probability 0
    rng.shuffle(shares)
    reached = rng.choice([*common[1:], parts // 32, 7 * parts // 8, parts - 2, rng.randint(1, parts)])
    beside = rng.choice([0.0, -_BESIDE, _BESIDE if reached < parts else 0.0])
    return torch.tensor([share / parts for share in shares]), (reached + beside) / parts


def _zeros_may_stay(case: tuple[Tensor, float], outcome: Outcome) -> Outcome:
    """Make tokens of probability 0 stay at p = 1: the engine keeps them, a sum that is exactly 1 does not."""
    (probs, p), mask = case, outcome.value
    is_mask = isinstance(mask, Tensor) and mask.shape == probs.shape and mask.dtype == torch.bool
    return replace(outcome, value=mask | (probs == 0)) if is_mask and p == 1 else outcome


def _up_to_the_first_that_reaches(probs: Tensor, p: float) -> Tensor:
    ranked, order = _ranked(probs)
    last = int((ranked.cumsum(0) >= p).int().argmax())
    return torch.zeros(len(probs), dtype=torch.bool).scatter(0, order[: last + 1], True)


def _ranked(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities, likeliest first, of equal ones the last; and the tokens that have them."""
    ranked, order = probs.sort(stable=True)
    return ranked.flip(0), order.flip(0)


def _sorted_downwards(probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same, but of equal ones the first."""
    ranked, order = probs.sort(descending=True, stable=True)
    return ranked, order


def _sorted_upwards(probs: Tensor) -> tuple[Tensor, Tensor]:
    ranked, order = probs.sort()  # as it is written without a thought of ties
    return ranked, order


Ranking = Callable[[Tensor], tuple[Tensor, Tensor]]


def _keep_by(ranking: Ranking, keep: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Return an answer that ranks, says which ranks stay, and puts that back to where the tokens were.

    keep: says which of the ranked probabilities stay, for a p.
    """

    def answer(probs: Tensor, p: float) -> Tensor:
        ranked, order = ranking(probs)
        kept = keep(ranked, p)
        return torch.zeros_like(kept).scatter(0, order, kept)

    return answer


def _notes_rule(ranked: Tensor, p: float) -> Tensor:
    return ranked.cumsum(0) <= p


def _sums_below(ranked: Tensor, p: float) -> Tensor:
    return ranked.cumsum(0) < p


def _and_the_first(rule: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Return a rule that keeps the first token too."""

    def keep(ranked: Tensor, p: float) -> Tensor:
        return rule(ranked, p) | (torch.arange(len(ranked)) == 0)

    return keep


def _one_too_many_at_a_tie(ranked: Tensor, p: float) -> Tensor:
    return ranked.cumsum(0) - ranked <= p


def _right_rule(ranked: Tensor, p: float) -> Tensor:
    return ranked.cumsum(0) - ranked < p


def _unsorted_top_p(probs: Tensor, p: float) -> Tensor:
    return probs.cumsum(0) - probs < p


def _mask_in_rank_order(probs: Tensor, p: float) -> Tensor:
    ranked, _ = _ranked(probs)
    return ranked.cumsum(0) - ranked < p


def _sorted_twice_by(ranking: Ranking) -> Callable[[Tensor, float], Tensor]:
    def answer(probs: Tensor, p: float) -> Tensor:
        ranked, order = ranking(probs)
        return _right_rule(ranked, p)[order]

    return answer


def _threshold_top_p(probs: Tensor, p: float) -> Tensor:
    return probs >= 1 - p


def _threshold_on_the_last_kept(probs: Tensor, p: float) -> Tensor:
    ranked, _ = _ranked(probs)
    return probs >= ranked[ranked.cumsum(0) - ranked < p][-1]


_FIRST_THIS = ". There is a second fault: mend this one first"
_CROSSING_DROPPED = (
    "you drop the token that crosses p: for [.4 .3 .15 .1 .05] and p = .9 you keep 3 tokens with .85 of the mass, the "
    "set must reach .9 and hold 4; where the first token is above p you keep none"
)
_FIRST_ALWAYS = (
    "you keep the first token always, but still drop the one that crosses p: for [.4 .3 .15 .1 .05] and p = .9 your 3 "
    "tokens reach .85 only"
)
_REACHED = (
    "where the sum is exactly p, the set has reached it: for [.5 .25 .25] and p = .5 one token is enough; keep a token "
    "if the sum before it is *below* p"
)
_SORTED_TWICE = (
    "`keep[order]` sorts the mask once more; `order[i]` says where the token of rank i belongs: "
    "`result[order] = keep`, or `scatter`"
)


def _in_both_rankings(keep: Callable[[Tensor, float], Tensor], diagnosis: str) -> list[Mistake]:
    """Return a mistake as those make it who rank equal tokens as the engine does, and as the others make it."""
    return [
        Mistake(_keep_by(_ranked, keep), diagnosis),
        Mistake(_keep_by(_sorted_downwards, keep), diagnosis + _FIRST_THIS),
    ]


_HALVES = torch.full((4096,), 2.0**-12)
_HALVES[:2048] = 2.0**-12 + 2.0**-35  # the next float: no bonus and no rounding may make them equal
_LONG = torch.zeros(8192)
_LONG[[0, 1, 2, 8000]] = torch.tensor([0.9, 1.2e-5, 0.099978, 1e-5])  # little by little, a number per token adds up

EXERCISE = Exercise(
    name="top_p",
    task="which tokens does top-p keep?",
    solution=top_p_solution,
    cases=[
        (torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]), 0.9),  # the notes' example
        (torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15]), 0.9),
        (torch.tensor([0.02, 0.9, 0.05, 0.03]), 0.5),
        (torch.tensor([0.5, 0.25, 0.25]), 0.5),
        (torch.tensor([0.25, 0.25, 0.25, 0.25]), 0.5),
        (torch.tensor([0.26, 0.24, 0.23, 0.27]), 1.0),
        (torch.tensor([0.75, 0.25, 0.0, 0.0]), 0.9995),
        (torch.tensor([0.75, 0.25, 0.0, 0.0]), 1 - 2**-20),
        (torch.tensor([0.6, 0.4]), 1e-30),
        (torch.tensor([0.6, 0.4]), 1e-8),  # so small that 1 - p is 1 in float32
        (torch.arange(1, 101) / 5050, 0.98),  # needs 87 tokens
        (torch.tensor([0.41794511675834656, 0.3100472390651703, 0.2720075845718384]), 1.0),  # all: 0.99999994
        # Sums below 1, whichever way they are added: a loop that waits for 1 never ends.
        (torch.tensor([0.41794511675834656, 0.3100472390651703, 0.2720075845718384, 0.0]), 1.0),
        (torch.tensor([0.0, 0.41794511675834656, 0.0, 0.3100472390651703, 0.2720075845718384, 0.0]), 1.0),
        (torch.full((2**14,), 2.0**-14), 0.5),
        (torch.full((2**14,), 2.0**-14), 2.0**-15),
        (torch.tensor([0.749998, 0.250002]), 0.749999),  # one is nearly enough
        *((torch.tensor([0.5 + little, 0.5 - little]), 0.4) for little in (3e-7, 3e-5)),  # nearly equal is not equal
        (torch.tensor([0.4, *[0.6 / 32] * 32]), 0.4 + 2.5 * 0.6 / 32),
        (torch.tensor([0.5, 0.4999996, 4e-7]), 0.9999998),
        (_LONG, 0.999984),
        (_HALVES, 0.25 - 2.0**-13),
        (torch.tensor([0.99999, 3.0004e-6, 3.0e-6, 3.9996e-6]), 0.999995),
        (torch.full((20,), 0.05), 0.22),  # a sort keeps the order of so many ties only if it is stable
    ],
    generate=_make_top_p_case,
    forgive=_zeros_may_stay,
    mistakes=[
        Mistake(
            _up_to_the_first_that_reaches,
            "almost: you look for the first place where the sum reaches p; all probabilities together may be "
            "0.9999999, just below p = 1, and then nothing does: keep all",
        ),
        *_in_both_rankings(_notes_rule, _CROSSING_DROPPED),
        *_in_both_rankings(_sums_below, "by `cumsum < p` " + _CROSSING_DROPPED),
        *_in_both_rankings(_and_the_first(_notes_rule), _FIRST_ALWAYS),
        *_in_both_rankings(_and_the_first(_sums_below), "by `cumsum < p` " + _FIRST_ALWAYS),
        *_in_both_rankings(_one_too_many_at_a_tie, _REACHED),
        Mistake(_unsorted_top_p, "you add up in the order of the vocabulary; sort, the likeliest token comes first"),
        Mistake(
            _keep_by(_sorted_upwards, _right_rule),
            "you begin with the least likely token, as `sort` does unless told otherwise; the likeliest comes first",
        ),
        Mistake(
            _mask_in_rank_order,
            "your mask is in the order of the sorted tokens; put it back to where each token was (`scatter`)",
        ),
        Mistake(_sorted_twice_by(_ranked), _SORTED_TWICE),
        Mistake(_sorted_twice_by(_sorted_downwards), _SORTED_TWICE + _FIRST_THIS),
        Mistake(
            _threshold_top_p,
            "you compare each probability with 1 - p; p is about the sum of the kept ones, not about single tokens",
        ),
        Mistake(
            _threshold_on_the_last_kept,
            "you keep every token as likely as the last that is needed: of [.25 .25 .25 .25] and p = .5 all four; "
            "the set must be the smallest, which is two",
        ),
        Mistake(
            _keep_by(_sorted_downwards, _right_rule),
            "right, but for equal tokens at the border: of these the later ones of the vocabulary stay; "
            "`probs.sort(stable=True)` and then `.flip(0)` ranks them so",
        ),
    ],
    hints=(
        "The set must *reach* p: which token makes it do so, and does it stay?",
        "Sort, add up, and keep a token if the sum of those *before* it is still below p. Then undo the sort.",
    ),
    code=(
        "ranked, order = probs.sort(stable=True)\n"
        "ranked, order = ranked.flip(0), order.flip(0)\n"
        "before = ranked.cumsum(0).roll(1)\n"
        "before[0] = 0\n"
        "keep = before < p\n"
        "return torch.zeros_like(keep).scatter(0, order, keep)"
    ),
)
