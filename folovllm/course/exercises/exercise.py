"""Exercises: a learner's function is run beside the engine's, and gets a diagnosis instead of a mere verdict.

A diagnosis is found by running the usual mistakes too: a function that answers like one of them has
made it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random

from folovllm.course.exercises.outcome import (
    Answer,
    Case,
    Outcome,
    describe_difference,
    same,
    show,
    show_arguments,
    try_out,
    try_out_refilled,
    what_stays,
)
from folovllm.course.exercises.time_limit import SECONDS, TimeIsUp, call_in_time
from folovllm.language import N_, _

NOT_ATTEMPTED = N_("not attempted yet")
NUM_GENERATED = 100
_A_PAGE = 2000
"""More characters than somebody reads of a case."""


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people give. diagnosis: what it does wrong, and what should happen instead, in English."""

    function: Answer
    diagnosis: str


def _content(case: Case, outcome: Outcome) -> str:
    return ""


def _as_it_is(case: Case, outcome: Outcome) -> Outcome:
    return outcome


@dataclass(frozen=True)
class Exercise:
    """One function to write.

    solution: the reference; its results are the engine's.
    cases: arguments that it is tried on, chosen by hand, the simplest first.  generate: further ones, by chance.
    mistakes: tried in order, so the more special ones come first.
    hints: a nudge, an approach.  code: the third hint, the function's body.
    complaint: what else an outcome lacks that is like the solution's; "" if nothing.
    forgive: makes equal what the task leaves open.
    """

    name: str
    task: str
    solution: Answer
    cases: list[Case]
    mistakes: list[Mistake]
    hints: tuple[str, str]
    code: str
    generate: Callable[[Random], Case]
    complaint: Callable[[Case, Outcome], str] = _content
    forgive: Callable[[Case, Outcome], Outcome] = _as_it_is

    @cached_property
    def all_cases(self) -> list[Case]:
        """The cases chosen by hand, then NUM_GENERATED further ones, the same every time; and once more the first.

        That is in objects in which an earlier case was: an answer may have remembered what it held.
        """
        generated = (self.generate(Random(f"{self.name} {i}")) for i in range(NUM_GENERATED))
        return [*self.cases, *generated, self.cases[0]]

    @cached_property
    def _expected(self) -> list[Outcome]:
        return self._try(self.solution)

    @cached_property
    def _expected_of_mistakes(self) -> list[list[Outcome]]:
        return [self._try(mistake.function) for mistake in self.mistakes]

    @property
    def argument_names(self) -> tuple[str, ...]:
        """The names of the function's arguments."""
        return tuple(inspect.signature(self.solution).parameters)

    def judge(self, answer: Answer) -> tuple[bool, str]:
        """Return whether an answer is right, and what to tell its author. Raises nothing, whatever the answer does."""
        expected = self._expected  # first: an answer may change more than its arguments
        given = self._try_in_time(answer)
        if all(isinstance(each.error, NotImplementedError) for each in given):
            return False, _(NOT_ATTEMPTED)
        if given[-1].is_late:
            return False, self._describe(len(given) - 1, given[-1])
        if shared := self._problem_of_memory(given):
            return False, shared
        wrong = [
            i for i, each in enumerate(given) if not self._are_equal(i, each, expected[i]) or self._complaint(i, each)
        ]
        if not wrong:
            return True, _("right, on all {count} inputs").format(count=len(given))
        if wrong == [len(given) - 1]:  # the first case once more
            return False, _(
                "not yet: for {asked}\n    your function is right once, and wrong where an object held something else "
                "before: remember nothing between two calls"
            ).format(asked=self._asked(0))
        for mistake, made in zip(self.mistakes, self._expected_of_mistakes, strict=True):
            if all(self._are_alike(i, each, made[i]) for i, each in enumerate(given)):
                return False, _(mistake.diagnosis)
        first = min(wrong, key=self._reading_order)
        return False, self._describe(first, given[first])

    def solution_source(self) -> str:
        """Return the reference as it stands in the package."""
        return inspect.getsource(self.solution)

    @cached_property
    def _like_the_first(self) -> Case:
        """A case that differs from the first one in what lists and tensors of one shape hold, and in its result."""
        kept = [list(map(what_stays, case)) for case in self.all_cases]
        alike = (i for i, each in enumerate(kept) if same(each, kept[0], tolerance=0))
        return self.all_cases[next((i for i in alike if not self._expected[i].is_like(self._expected[0])), 0)]

    def _try(self, function: Answer) -> list[Outcome]:
        """Return what a function does with each case."""
        return [try_out(function, case) for case in self.all_cases]

    def _try_in_time(self, answer: Answer) -> list[Outcome]:
        """Return the same, up to the case in which the time for all of them is over."""
        outcomes: list[Outcome] = []

        def try_all() -> None:  # one limit for all: a thread that waits for each case would take longer than the case
            for case in self.all_cases[:-1]:
                outcomes.append(try_out(answer, case))
            outcomes.append(try_out_refilled(answer, self.all_cases[-1], self._like_the_first))

        try:
            call_in_time(SECONDS, try_all)
        except TimeIsUp as error:
            if len(outcomes) < len(self.all_cases):
                outcomes.append(Outcome(error=error))
        return outcomes

    def _problem_of_memory(self, given: list[Outcome]) -> str:
        """Say whose result a later call changes, or gives out again; "" if each call's is new."""
        for i, each in enumerate(given):
            if each.was_changed_later:
                return _(
                    "not yet: for {asked}\n    what your function returned is changed by a later call; return "
                    "something new"
                ).format(asked=self._asked(i))
        taken: set[int] = set()
        for i, each in enumerate(given):
            if taken & each.memory:
                return _(
                    "not yet: for {asked}\n    your function returns an object, or a view of one, that it returned "
                    "before: who changes one changes both; return something new"
                ).format(asked=self._asked(i))
            taken |= each.memory
        return ""

    def _are_equal(self, i: int, given: Outcome, other: Outcome) -> bool:
        return self.forgive(self.all_cases[i], given).is_like(self.forgive(self.all_cases[i], other))

    def _complaint(self, i: int, outcome: Outcome) -> str:
        return self.complaint(self.all_cases[i], outcome)

    def _are_alike(self, i: int, given: Outcome, made: Outcome) -> bool:
        return self._are_equal(i, given, made) and self._complaint(i, given) == self._complaint(i, made)

    def _reading_order(self, i: int) -> tuple[bool, bool, int]:
        """Sort cases as they are shown: those chosen by hand in their order, then the shortest; endless ones last."""
        length, is_generated = len(repr(self.all_cases[i])), i >= len(self.cases)
        return length > _A_PAGE, is_generated, length if is_generated else i

    def _describe(self, i: int, given: Outcome) -> str:
        case = self.all_cases[i]
        if self._are_equal(i, given, self._expected[i]):
            said = self._complaint(i, given)
        else:
            may_be_none = any(each.value is None and each.error is None for each in self._expected)
            said = describe_difference(given, self._expected[i], case, self.argument_names, may_be_none)
        printed = given.printed.strip()
        if printed:
            said += "\n    " + _("(it printed there: {printed})").format(printed=show(printed))
        return _("not yet: for {asked}\n    {said}").format(asked=self._asked(i), said=said)

    def _asked(self, i: int) -> str:
        """Return a case as it is told to the learner."""
        shown = zip(self.argument_names, show_arguments(self.all_cases[i]), strict=True)
        return ", ".join(f"{name}={value}" for name, value in shown)
