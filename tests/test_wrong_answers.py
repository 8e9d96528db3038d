"""A check is as good as what it rejects: wrong answers that people gave, and every small change of a right one."""

import importlib
import json
import signal
import textwrap
from random import Random

import pytest
import torch

from folovllm.course.exercises.checks import CHAPTERS
from folovllm.course.exercises.outcome import try_out
from folovllm.request import ALLOWED_TRANSITIONS
from tests.mutants import mutants_of

NAMESPACE = {"json": json, "torch": torch, "ALLOWED_TRANSITIONS": ALLOWED_TRANSITIONS}
AT_LEAST = 12
NUM_PAIRS, NUM_OTHERS = 60, 100
SECONDS = 2.0
"""Of its own time an answer may take so much; a mutant of a loop may never end."""


class Endless(BaseException):
    """Not an Exception, so that it is not taken for an outcome."""


def is_accepted(exercise, answer):
    return in_time(lambda: exercise.judge(answer)[0])


def in_time(ask):
    """Return the answer to a question; False if that takes too long."""

    def stop(number, frame):
        raise Endless

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        return ask()
    except Endless:
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def chapter_of(exercise):
    """Return the name of the package ``folovllm.course.exercises.<chapter>`` that an exercise lies in."""
    return exercise.solution.__module__.split(".")[3]


def wrong_answers_of(chapter):
    return importlib.import_module(f"tests.wrong_answers.{chapter}")


EXERCISES = [
    pytest.param(exercise, wrong_answers_of(chapter_of(exercise)), id=exercise.name)
    for exercises in CHAPTERS.values()
    for exercise in exercises
]
EACH = pytest.mark.parametrize(("exercise", "answers"), EXERCISES)


def compiled(exercise, code):
    namespace = dict(NAMESPACE)
    exec(f"def answer({', '.join(exercise.argument_names)}):\n{textwrap.indent(code, '    ')}", namespace)
    return namespace["answer"]


@EACH
def test_every_small_change_of_the_code_is_rejected(exercise, answers):
    """Those that change nothing are named, with the reason."""
    mutants = list(mutants_of(exercise.code))
    accepted = [line for code, line in mutants if is_accepted(exercise, compiled(exercise, code))]
    assert set(accepted) == set(answers.EQUIVALENT.get(exercise.name, {}))


@EACH
def test_two_small_changes_at_once_are_rejected_or_change_nothing(exercise, answers):
    """What passes on the check's inputs is right on others, too: the inputs are enough."""
    pairs = {code for once, _ in mutants_of(exercise.code) for code, _ in mutants_of(once)}
    chosen = Random(exercise.name).sample(sorted(pairs), min(NUM_PAIRS, len(pairs)))
    own = with_answers(exercise, exercise.all_cases)
    others = with_answers(
        exercise, [exercise.generate(Random(f"other {exercise.name} {i}")) for i in range(NUM_OTHERS)]
    )
    found = [code for code in chosen if agrees(exercise, code, own)]
    assert [code for code in found if not agrees(exercise, code, others)] == []


def with_answers(exercise, cases):
    return [(case, try_out(exercise.solution, case)) for case in cases]


def agrees(exercise, code, known):
    """Whether code does what is known to be right, up to the first case in which it does not."""
    answer = compiled(exercise, code)

    def is_right(case, right):
        given = try_out(answer, case)
        return given.is_like(right) and not exercise.complaint(case, given)

    return in_time(lambda: all(is_right(*each) for each in known))


@EACH
def test_every_wrong_answer_is_rejected_in_two_lines(exercise, answers):
    judged = [(each.__name__, *exercise.judge(each)) for each in answers.WRONG.get(exercise.name, [])]
    assert [name for name, is_right, _said in judged if is_right] == []
    for _name, _is_right, said in judged:
        lines = said.splitlines()
        assert len(lines) <= 2
        assert max(map(len, lines)) <= 400


@EACH
def test_there_are_at_least_twelve_wrong_answers(exercise, answers):
    rejected = len(list(mutants_of(exercise.code))) - len(answers.EQUIVALENT.get(exercise.name, {}))
    assert len(exercise.mistakes) + len(answers.WRONG.get(exercise.name, [])) + rejected >= AT_LEAST


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_exercise_is_named_that_does_not_exist(chapter):
    for package in {chapter_of(exercise) for exercise in CHAPTERS[chapter]}:
        names = {exercise.name for exercise in CHAPTERS[chapter]}
        assert {*wrong_answers_of(package).WRONG, *wrong_answers_of(package).EQUIVALENT} <= names
