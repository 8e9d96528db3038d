"""``position_ids``: the positions of left-padded tokens."""

from random import Random

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.language import _


def position_ids_solution(mask: Tensor) -> Tensor:
    """Return the positions of left-padded tokens; padding gets 0."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


_INDEX_DTYPES = (torch.int64, torch.int32)


def _no_index(case: Case, outcome: Outcome) -> str:
    """Complain of positions with which no table can be asked for its rows."""
    if not isinstance(outcome.value, Tensor) or outcome.value.dtype in _INDEX_DTYPES:
        return ""
    return _(
        "the numbers are right, but your tensor is {dtype}; a table of positions takes torch.int64 or torch.int32 only"
    ).format(dtype=outcome.value.dtype)


def _columns(mask: Tensor) -> Tensor:
    return torch.arange(mask.shape[1]).expand(mask.shape)


def _columns_without_padding(mask: Tensor) -> Tensor:
    return _columns(mask) * mask


def _from_one(mask: Tensor) -> Tensor:
    return mask.cumsum(dim=1) * mask


def _minus_one_at_padding(mask: Tensor) -> Tensor:
    return mask.cumsum(dim=1) - 1


def _from_the_first_one(mask: Tensor) -> Tensor:
    return (_columns(mask) - mask.argmax(dim=1, keepdim=True)).clamp(min=0)


def _backwards(mask: Tensor) -> Tensor:
    return _columns(mask).flip(1) * mask


def _random_mask(random: Random) -> tuple[Tensor]:
    """Return a left-padded mask; it may be wide, and a row may be padding alone."""
    columns = random.choice((random.randint(1, 9), random.randint(1, 9), random.randint(200, 400)))
    places = (0, columns, random.randint(0, columns))
    starts = torch.tensor([[random.choice(places)] for _ in range(random.choice((1, 2, 3, 4, 12)))])
    return ((torch.arange(columns) >= starts).long(),)


_MASKS = [
    torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]),  # the notes' picture
    torch.tensor([[1, 1, 1]]),
    torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]),
    torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 1, 1]]),
    torch.tensor([[0, 0], [0, 1]]),
    (torch.arange(70_000) >= 500).long()[None],  # more columns than 16 bits count
    (torch.arange(9) >= 8).long()[None],
]

EXERCISE = Exercise(
    name="position_ids",
    task="the positions of left-padded tokens",
    solution=position_ids_solution,
    cases=[(mask,) for mask in _MASKS],
    generate=_random_mask,
    complaint=_no_index,
    mistakes=[
        Mistake(
            _columns,
            "you count columns: for the mask [0 0 1 1 1] the first real token gets position 2; it is the first of "
            "its text, so it must get 0",
        ),
        Mistake(
            _columns_without_padding,
            "you count columns, though padding gets 0: for the mask [0 0 1 1 1] the first real token must get 0 "
            "too, and gets 2; count the real tokens alone",
        ),
        Mistake(_from_one, "you start at 1; the first position is 0, and so every token is one place too far"),
        Mistake(
            _minus_one_at_padding,
            "padding before the text gets -1; no table of positions has such a row (on a GPU that ends the "
            "program), so give it 0",
        ),
        Mistake(
            _from_the_first_one,
            "almost: in a row of padding alone you count the padding, which gets 0 there too (if you look for the "
            "first 1: such a row has none, and `argmax` says 0)",
        ),
        Mistake(_backwards, "you count from the end; the first real token has position 0, the last the largest"),
    ],
    hints=(
        "How many real tokens are there up to a column?",
        "`cumsum` along the row counts them. The first must get 0, and padding must not fall below it.",
    ),
    code="return (mask.cumsum(dim=1) - 1).clamp(min=0)",
)
