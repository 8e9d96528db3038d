"""What ``check`` says of an answer, whatever the answer does."""

import math
import random

import pytest
import torch

from folovllm.course.exercises.checks import check, find_exercise
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import same, show, show_apart, show_arguments, try_out
from folovllm.course.exercises.sampling.min_p import min_p_solution
from folovllm.course.exercises.sampling.temperature import temperature_solution
from folovllm.course.exercises.sampling.top_p import top_p_solution
from tests.translation_rules import half_width_marks


def exercise(solution, *cases, **further):
    return Exercise(
        "it", "do it", solution, list(cases), [], ("a", "b"), "return", **{"generate": lambda rng: cases[0]} | further
    )


def double(values):
    return [2 * value for value in values]


DOUBLE = exercise(double, ([1, 2],), ([],))


class Odd:
    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None

    def __repr__(self):
        raise RuntimeError("no")


def in_place(values):
    for i, value in enumerate(values):
        values[i] = 2 * value
    return values


def raises_without_words(values):
    raise ValueError


ANSWERS = [
    (lambda values: tuple(double(values)), "returns a tuple, (2, 4); right: a list, [2, 4]"),
    (
        lambda values: torch.tensor(double(values)),
        "returns a tensor of int64, shape [2], [2, 4]; right: a list",
    ),
    (lambda values: None, "returns None; right: a list, [2, 4]; is a `return` with a value reached?"),
    (lambda values: [float(2 * value) for value in values], "returns [2.0, 4.0]; right: it returns [2, 4]"),
    (lambda values: (2 * value for value in values), "returns a generator, "),
    (lambda values: ValueError("no"), "a ValueError (it must be raised, not returned)"),
    (lambda values: [torch.tensor([1.0]), torch.tensor([2.0])], "returns [tensor([1.0]), tensor([2.0])]; right"),
    (
        lambda values: list(torch.tensor(double(values))),
        "returns [tensor(2), tensor(4)]; right: it returns [2, 4]; at [0]: a tensor, tensor(2); right: an int, 2",
    ),
    (lambda values: [str(value) for value in double(values)], "; at [0]: a str, '2'; right: an int, 2"),
    (lambda values: [None for value in values], "right: it returns [2, 4]; at [0]: None; right: an int, 2"),
    (lambda values: Odd(), "returns an Odd"),
    (lambda values: [Odd()], "right: it returns [2, 4]"),
    (lambda values: torch.empty(2, device="meta"), "returns a tensor of float32"),
    (lambda values: exit(), "raises SystemExit"),
    (lambda values: double(values) if values else values, "its argument `values` itself, or a view of it: the result"),
    (lambda: 1, "raises TypeError"),
    (raises_without_words, "raises ValueError without a message"),
    (in_place, "changes its argument `values`, which belongs to the caller; work on a copy of it"),
]


@pytest.mark.parametrize(("answer", "said"), ANSWERS)
def test_every_answer_is_told_what_is_wrong(answer, said):
    right, verdict = DOUBLE.judge(answer)
    assert not right
    assert said in verdict
    assert len(verdict.splitlines()) <= 2


@pytest.mark.parametrize("answer", [answer for answer, _ in ANSWERS])
def test_every_answer_is_told_so_with_chinese_punctuation_in_chinese(answer, monkeypatch):
    monkeypatch.setenv("FOLOVLLM_LANG", "zh")
    assert half_width_marks(DOUBLE.judge(answer)[1]) == []


def test_where_none_is_right_a_pair_of_nones_is_told_apart_from_it():
    verdict = exercise(lambda values: None, [1]).judge(lambda values: (None, None))[1]
    assert verdict.endswith("your function returns a tuple, (None, None); right: None")


def test_where_none_is_right_elsewhere_nobody_is_asked_for_a_return():
    first = exercise(lambda values: values[0] if values else None, ([1],), ([],))
    assert first.judge(lambda values: None)[1].endswith("your function returns None; right: an int, 1")


ABOVE_0 = exercise(lambda logits: logits.clamp(min=0), (torch.tensor([-1.0, 1.0]),), (torch.tensor([1.0, 2.0]),))


@pytest.mark.parametrize(
    "same_numbers",
    [lambda logits: logits, lambda logits: logits[:], torch.detach, lambda logits: torch.from_numpy(logits.numpy())],
)
def test_a_result_that_changes_with_the_argument_is_not_new(same_numbers):
    def answer(logits):
        return logits.clamp(min=0) if (logits < 0).any() else same_numbers(logits)

    assert "its argument `logits` itself, or a view of it" in ABOVE_0.judge(answer)[1]


@pytest.mark.parametrize("pair", [lambda values: (values, 1), lambda values: (list(values), 1)])
def test_where_the_solution_returns_its_argument_an_answer_may_do_so(pair):
    assert exercise(lambda values: (values, 1), [[1]]).judge(pair)[0]


def test_a_list_of_the_callers_within_the_result_is_found():
    in_two_lists = exercise(lambda rows: [[*row] for row in rows], ([[1], [2]],))
    assert "its argument `rows` itself" in in_two_lists.judge(list)[1]


def test_a_list_that_contains_itself_is_an_answer_like_others():
    endless = []
    endless.append(endless)
    assert DOUBLE.judge(lambda values: endless)[1].startswith("not yet")


def test_a_tensor_without_a_list_of_numbers_is_an_answer_like_others():
    verdict = ABOVE_0.judge(lambda logits: logits.clamp(min=0).to_sparse())[1]
    assert verdict.endswith("right: it returns [0.0, 1.0]")


def test_an_interrupt_is_not_an_answer():
    def interrupted(values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DOUBLE.judge(interrupted)


def test_a_returned_error_is_not_a_raised_one():
    refuse = exercise(raises_without_words, ([1],))
    assert not refuse.judge(lambda values: ValueError())[0]
    assert refuse.judge(raises_without_words)[0]


def test_numbers_are_shown_with_the_digits_that_they_need():
    third = exercise(lambda x: x / 3, (1.0,))
    assert "returns 0.3334; right: it returns 0.3333" in third.judge(lambda x: 0.3334)[1]
    assert show_apart(0.33333, 0.33334) == ("0.33333", "0.33334")
    assert show_apart(list(range(50)), [*range(49), 0]) == ("49 at [49]", "0 at [49]")
    assert show_apart([[0] * 20, [1] * 20], [[0] * 20, [1] * 21]) == ("20 at [1] length", "21 at [1] length")


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0.000412, "0.000412"), (-0.00039999, "-0.0004"), (0.0000123456, "1.23e-05"), (0.05, "0.05"), (4e-9, "0.0")],
)
def test_small_numbers_keep_their_digits(number, shown):
    assert show(number) == shown
    assert show(torch.tensor([number], dtype=torch.float64)) == f"[{shown}]"


@pytest.mark.parametrize(
    ("case", "shown"),
    [
        ((torch.tensor([[2.0, 2.0]]), torch.tensor([5e-6])), ["[[2.0, 2.0]]", "[5e-06]"]),
        ((torch.tensor([0.75, 0.25]), 0.9995), ["[0.75, 0.25]", "0.9995"]),
        ((torch.tensor([0.75, 0.25]), 0.75 + 2**-17), ["[0.75, 0.25]", "0.750008"]),
        (([1.0, 1 - 1e-12], {"p": -1e-8}), ["[1.0, 0.999999999999]", "{'p': -1e-08}"]),
        ((torch.tensor([0.1, 0.10000001]), torch.inf, 3, True), ["[0.1, 0.10000001]", "inf", "3", "True"]),
        ((torch.tensor(16.5), torch.tensor([16.5])), ["tensor(16.5)", "[16.5]"]),
        ((1 / 3, [-20_000.53, math.nan], ()), ["0.333333", "[-20000.5, nan]", "()"]),
    ],
)
def test_arguments_are_shown_with_the_digits_that_tell_them_from_each_other_and_from_whole_numbers(case, shown):
    assert show_arguments(case) == shown


@pytest.mark.parametrize(
    ("name", "answer", "told"),
    [
        ("temperature", lambda logits, t: temperature_solution(logits, t.where(t > 1e-5, 0.0)), "temperature=[5e-06]"),
        ("top_p", lambda probs, p: top_p_solution(probs, 9.0 if p > 0.95 else p), "p=0.9995"),
        ("min_p", lambda logits, p: min_p_solution(logits, p.where(p > 1e-7, 0.0)), "min_p=[1e-08]"),
    ],
)
def test_a_setting_near_0_or_1_is_told_as_what_it_is(name, answer, told):
    assert told in find_exercise(name).judge(answer)[1]


@pytest.mark.parametrize(
    ("given", "expected", "are"),
    [
        (torch.tensor([float("nan"), -torch.inf]), torch.tensor([float("nan"), -torch.inf]), True),
        (torch.tensor([1.0], dtype=torch.float64), torch.tensor([1.0]), True),
        (torch.tensor([1]), torch.tensor([1.0]), False),
        (torch.tensor([True]), torch.tensor([1]), False),
        (torch.tensor([1 + 0j]), torch.tensor([1.0]), False),
        (torch.ones(1, requires_grad=True), torch.ones(1), True),
        (float("nan"), float("nan"), True),
        (True, 1, False),
        ({"a": 1.0}, {"a": 1.000001}, True),
        ({"a": 1.0}, {"b": 1.0}, False),
        ([1, [2.0]], [1, [2.0000001]], True),
        ([1, 2], [1], False),
    ],
)
def test_what_is_the_same(given, expected, are):
    assert same(given, expected) is are


def test_an_argument_without_equality_is_not_called_changed():
    assert try_out(lambda thing: 1, (object(),)).changed is None


def test_what_an_answer_prints_is_told_of_the_case_that_is_shown(capsys):
    _, verdict = DOUBLE.judge(lambda values: print("saw", values))
    assert "(it printed there: 'saw [1, 2]')" in verdict
    assert capsys.readouterr().out == ""


def test_inputs_are_generated_and_the_shortest_that_fails_is_shown():
    def some(rng: random.Random):
        return ([rng.randrange(9) for _ in range(rng.randrange(6))],)

    generated = exercise(double, ([1],), generate=some)
    assert len(generated.all_cases) == 102
    assert generated.all_cases == exercise(double, ([1],), generate=some).all_cases
    assert generated.judge(double) == (True, "right, on all 102 inputs")
    wrong = generated.judge(lambda values: double(values) if len(values) < 2 else [])[1]
    shown = wrong.partition("[")[2].partition("]")[0]
    assert shown.count(",") == 1


def test_a_complaint_is_a_further_demand():
    def refuse(value):
        raise ValueError(f"got {value}")

    def complaint(case, outcome):
        return "" if str(case[0]) in str(outcome.error) else "the message does not say what was given"

    strict = exercise(refuse, (7,), complaint=complaint)
    assert strict.judge(refuse)[0]
    assert strict.judge(raises_without_words) == (
        False,
        "not yet: for value=7\n    the message does not say what was given",
    )


def test_a_diagnosis_is_only_for_whoever_makes_that_mistake_on_every_input():
    mistake = Mistake(lambda values: [], "you forget them all")
    with_mistake = Exercise(
        "it", "do it", double, [([1, 2],), ([],)], [mistake], ("a", "b"), "return", lambda rng: ([],)
    )
    assert with_mistake.judge(lambda values: []) == (False, "you forget them all")
    assert with_mistake.judge(lambda values: [] if values else [0])[1].startswith("not yet: for values=[1, 2]\n")


def test_what_is_no_function_is_told_how_to_be_given(capsys):
    check("top_p", 3)
    assert capsys.readouterr().out == "top_p: give the function itself, without brackets: check('top_p', my_top_p)\n"
