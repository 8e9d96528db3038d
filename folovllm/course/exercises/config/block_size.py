"""``block_size``: a setting is accepted, or refused in words that help."""

from decimal import Decimal
from fractions import Fraction
from itertools import zip_longest
from random import Random
from typing import Any

import torch

from folovllm.config import CacheConfig
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome, safely, show
from folovllm.language import _


def block_size_solution(value: Any) -> int:
    """Return a block size that is allowed, or raise ValueError: the engine's, without the name of the group."""
    try:
        return CacheConfig(block_size=value).block_size
    except ValueError as error:
        raise ValueError(str(error).removeprefix("CacheConfig.")) from None


def _another_message(case: Case, outcome: Outcome) -> str:
    """Ask of an error's message that it is the one in the exercise, letter by letter."""
    if not isinstance(outcome.error, ValueError):
        return ""
    given, right = safely(str, outcome.error), f"block_size must be an int >= 1, got {case[0]!r}"
    if given == right:
        return ""
    first = next(i for i, (one, other) in enumerate(zip_longest(given, right)) if one != other)
    word = right.rfind(" ", 0, first) + 1  # where the word begins that differs
    return _(
        "your ValueError reads {given}; right: {right}; the first difference: {part} in place of {right_part}"
    ).format(given=show(given), right=show(right), part=repr(given[word:][:20]), right_part=repr(right[word:][:20]))


def _random_value(random: Random) -> Case:
    whole = random.choice(
        (-1, 0, 1, 2, random.randint(-100, 100), random.randint(3, 40), random.randint(41, 5000), 2**40)
    )
    exotic = random.choice((Fraction(whole), Fraction(2 * whole + 1, 2), Decimal(whole), complex(whole), b"16", {16}))
    other = random.choice((None, bool(whole), float("nan"), "", "16\n", "it's 16", exotic))
    return (random.choice((whole, whole, whole, float(whole), whole + 0.5, str(whole), [whole], other, other)),)


def _notes_check(value: Any) -> Any:
    if value <= 0:
        raise ValueError("block_size must be positive")
    return value


def _true_is_an_int(value: Any) -> Any:
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def _converted(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number <= 0:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return number


def _asserted(value: Any) -> Any:
    assert isinstance(value, int)
    assert not isinstance(value, bool)
    assert value > 0
    return value


def _without_a_word(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError
    return value


EXERCISE = Exercise(
    name="block_size",
    task="accept what a block size may be, refuse all else by a ValueError in three parts",
    solution=block_size_solution,
    cases=[
        *((value,) for value in (16, 0, 1, 3, 17, 24, -16, 16.5, 16.0, "16", "many", True, False, None, [16], 2**40)),
        *((value,) for value in (-(10**12), 10**30, float("inf"), float("-inf"), b"16", {}, {"16": 16}, {16}, len)),
        *((value,) for value in ((16,), Fraction(33, 2), Fraction(16), Decimal(16), torch.tensor(16.5), 16j, 16 + 0j)),
        ("十六",),
        ("as many as the readers of a whole day will need",),
    ],
    generate=_random_value,
    mistakes=[
        Mistake(
            _notes_check,
            "the notes' check lets 16.5 and True pass, and for '16' raises TypeError, which does not say what is "
            "wrong; ask for the type first",
        ),
        Mistake(_true_is_an_int, "True passes: bool is a subclass of int in Python; refuse it by name"),
        Mistake(
            _converted,
            "int() repairs what should be refused: 16.5 becomes 16 and '16' a number, and the user never learns "
            "that the setting was wrong",
        ),
        Mistake(
            _asserted,
            "assert raises AssertionError, and nothing at all under `python -O`; a user's mistake is a ValueError",
        ),
        Mistake(
            _without_a_word,
            "your ValueError has no message: say which field it is, what is allowed and what was given",
        ),
    ],
    hints=(
        "`value <= 0` compares before it knows what it compares.",
        "First `isinstance`, with `bool` refused although it is an `int`; then the range. One `raise` is enough.",
    ),
    code=(
        "if isinstance(value, bool) or not isinstance(value, int) or value < 1:\n"
        '    raise ValueError(f"block_size must be an int >= 1, got {value!r}")\n'
        "return value"
    ),
    complaint=_another_message,
)
