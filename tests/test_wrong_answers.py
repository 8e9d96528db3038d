"""A check is as good as what it rejects: wrong answers that people gave, and every small change of a right one."""

import copy
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


CHANGES_NOTHING = {("kv_bytes", "num_heads")}
"""An argument that no result depends on."""
ARGUMENTS = [
    pytest.param(exercise, place, id=f"{exercise.name}-{name}")
    for exercises in CHAPTERS.values()
    for exercise in exercises
    for place, name in enumerate(exercise.argument_names)
]
EACH_ARGUMENT = pytest.mark.parametrize(("exercise", "place"), ARGUMENTS)


@EACH_ARGUMENT
def test_what_is_remembered_must_be_asked_for_again_with_each_other_argument(exercise, place):
    """A cache whose key lacks one argument is found, unless nothing depends on that one."""
    answer = remembering(exercise, lambda given: tuple(map(content_of, [*given[:place], *given[place + 1 :]])))
    assert exercise.judge(answer)[0] == ((exercise.name, exercise.argument_names[place]) in CHANGES_NOTHING)


def remembering(exercise, key_of, hand_out=copy.deepcopy):
    """Return a right answer with a cache. key_of: from arguments to a key.  hand_out: how a kept one is."""
    remembered = {}  # the arguments too, so that no other object gets the id of one of them

    def answer(*arguments):
        key = key_of(arguments)
        if key not in remembered:
            remembered[key] = arguments, try_out(exercise.solution, arguments)
        known = remembered[key][1]
        if known.error:
            raise known.error
        return hand_out(known.value)

    return answer


def content_of(value):
    """Return something hashable that equal values have in common."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.numpy().tobytes()
    if isinstance(value, list | tuple):
        return type(value), *map(content_of, value)
    return repr(value)


@EACH
def test_a_result_that_is_given_out_again_is_found(exercise, answers):
    """A cache that hands out the same list or tensor twice is found, where there are such."""
    answer = remembering(exercise, lambda given: tuple(map(content_of, given)), hand_out=lambda value: value)
    can_be_changed = any(try_out(exercise.solution, case).memory for case in exercise.cases)
    assert exercise.judge(answer)[0] == (not can_be_changed)


@EACH
def test_what_is_remembered_of_an_object_is_found(exercise, answers):
    """A cache that goes by the object, as ``lru_cache`` does with tensors, knows nothing of its new content."""
    answer = remembering(exercise, lambda given: tuple(map(id, given)))
    can_be_refilled = any(isinstance(each, list | torch.Tensor) for each in exercise.cases[0])
    assert exercise.judge(answer)[0] == (not can_be_refilled)


@EACH_ARGUMENT
def test_an_argument_that_is_hardly_changed_is_changed(exercise, place):
    """A tensor's numbers become the next ones that float32 has."""

    def answer(*arguments):
        given = copy.deepcopy(arguments)
        nudge(arguments[place])
        return exercise.solution(*given)

    has_tensors = any(is_float(case[place]) for case in exercise.all_cases)
    assert exercise.judge(answer)[0] == (not has_tensors)


def is_float(value):
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def nudge(value):
    if is_float(value):
        value.copy_(torch.nextafter(value, torch.full_like(value, torch.inf)))


MANY, ROWS = 1000, 12
SMALLER = {
    ("kv_bytes", "num_kv_heads"): (256, "heads"),
    ("kv_bytes", "bytes_per_number"): (8, "no number has more bytes"),
    ("penalties", "prompt"): (300, "a learner's loop may take a while for each"),
    ("stop", "stop"): (30, "more than anybody asks for"),
    ("shown", "stop"): (30, "more than anybody asks for"),
    ("fork", "num_forks"): (100, "forks of one sequence"),
    ("preempt", "free"): (60, "few, or nobody gives way"),
    ("beam_step", "totals"): (40, "beams"),
    ("beam_step", "logprobs"): (40, "beams"),
    ("beam_step", "width"): (300, "more than there are beams"),
    ("read_tensor", "name"): (14, "a part of a tensor's path"),
    ("q8_0", "weights"): (600, "20 blocks"),
    ("share", "running"): (100, "chats that run"),
    ("generate", "max_tokens"): (100, "a toy's text"),
}
"""Arguments that are never MANY, but so many, and why."""


@EACH_ARGUMENT
def test_some_inputs_are_large(exercise, place):
    """An answer for a toy's sizes alone is found: one that looks at the first 64, say, or ends at 256."""
    values = [case[place] for case in exercise.all_cases]
    least, _why = SMALLER.get((exercise.name, exercise.argument_names[place]), (MANY, ""))
    sizes = [size for size in map(size_of, values) if size is not None]
    assert not sizes or max(sizes) >= least
    if isinstance(values[0], torch.Tensor):
        assert max(map(len, values)) >= ROWS


def size_of(value):
    """Return how large a number is, how long a text or list, how wide a tensor; None of other things."""
    if isinstance(value, torch.Tensor):
        return value.shape[-1] if value.dim() == 2 else None
    return len(value) if isinstance(value, str | bytes | list) else abs(value) if type(value) is int else None


@EACH
def test_there_are_at_least_twelve_wrong_answers(exercise, answers):
    rejected = len(list(mutants_of(exercise.code))) - len(answers.EQUIVALENT.get(exercise.name, {}))
    assert len(exercise.mistakes) + len(answers.WRONG.get(exercise.name, [])) + rejected >= AT_LEAST


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_no_exercise_is_named_that_does_not_exist(chapter):
    for package in {chapter_of(exercise) for exercise in CHAPTERS[chapter]}:
        names = {exercise.name for exercise in CHAPTERS[chapter]}
        assert {*wrong_answers_of(package).WRONG, *wrong_answers_of(package).EQUIVALENT} <= names
