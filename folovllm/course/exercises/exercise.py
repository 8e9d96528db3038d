"""Exercises: a learner's function is run beside the engine's, and gets a diagnosis instead of a mere verdict.

A diagnosis is found by running the usual mistakes too: a function that answers like one of them has
made it.
"""

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, allclose

Answer = Callable[..., Any]
NOT_ATTEMPTED = "not attempted yet"


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give. diagnosis: what it does wrong, and what should happen instead."""

    function: Answer
    diagnosis: str


@dataclass(frozen=True)
class Exercise:
    """One function to write.

    solution: the reference; its results are the engine's.  cases: the arguments that it is tried on.
    mistakes: tried in order, so the more special ones come first.
    hints: a nudge, an approach.  code: the third hint, the function's body.
    """

    name: str
    task: str
    solution: Answer
    cases: list[tuple[Any, ...]]
    mistakes: list[Mistake]
    hints: tuple[str, str]
    code: str

    def judge(self, answer: Answer) -> tuple[bool, str]:
        """Return whether an answer is right, and what to tell its author."""
        given = [_outcome(answer, case) for case in self.cases]
        if any(isinstance(each, NotImplementedError) for each in given):
            return False, NOT_ATTEMPTED
        expected = [_outcome(self.solution, case) for case in self.cases]
        wrong = [i for i in range(len(given)) if not _equal(given[i], expected[i])]
        if not wrong:
            return True, f"right, on all {len(self.cases)} inputs"
        for mistake in self.mistakes:
            if all(_equal(given[i], _outcome(mistake.function, case)) for i, case in enumerate(self.cases)):
                return False, mistake.diagnosis
        first = wrong[0]
        asked = _show(self.cases[first])
        return False, f"not yet: for {asked} your function {_tell(given[first])}; right: it {_tell(expected[first])}"

    def solution_source(self) -> str:
        """Return the reference as it stands in the package."""
        return inspect.getsource(self.solution)


def _copied(case: tuple[Any, ...]) -> list[Any]:
    """Return the arguments such that an answer cannot spoil them for the next."""
    return copy.deepcopy(list(case))


def _outcome(function: Answer, case: tuple[Any, ...]) -> Any:
    """Return what a function gives, or the exception that it raises: that is an answer too."""
    try:
        return function(*_copied(case))
    except Exception as error:
        return error


def _equal(given: Any, expected: Any) -> bool:
    if isinstance(given, Tensor) and isinstance(expected, Tensor):
        if given.shape != expected.shape or given.dtype.is_floating_point != expected.dtype.is_floating_point:
            return False
        return allclose(given.double(), expected.double(), atol=1e-5)
    if isinstance(expected, Exception):
        return isinstance(given, type(expected))
    return type(given) is type(expected) and bool(given == expected)


def _tell(outcome: Any) -> str:
    if isinstance(outcome, Exception):
        return f"raises {type(outcome).__name__}: {outcome}"
    return f"returns {_show([outcome])}"


def _show(values: Iterable[Any]) -> str:
    return ", ".join(repr(_rounded(value) if isinstance(value, Tensor) else value) for value in values)


def _rounded(values: Tensor) -> Any:
    return (values.double().round(decimals=3) if values.is_floating_point() else values).tolist()
