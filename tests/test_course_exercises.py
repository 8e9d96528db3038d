"""Every exercise accepts its solution, knows an untouched stub, and names each mistake."""

import ast
import json
from pathlib import Path

import pytest
import torch

from folovllm.course.checks import check, find_exercise
from folovllm.course.exercises import NOT_ATTEMPTED
from folovllm.course.sampling_exercises import EXERCISES

MISTAKES = [(exercise, mistake) for exercise in EXERCISES for mistake in exercise.mistakes]
BY_NAME = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


@BY_NAME
def test_the_solution_passes(exercise):
    assert exercise.judge(exercise.solution) == (True, f"right, on all {len(exercise.cases)} inputs")


@BY_NAME
def test_the_code_of_the_last_hint_passes(exercise):
    *steps, last = [step for step in exercise.hints[-1].split("`") if step.strip(" ,")]
    arguments = ", ".join(exercise.solution.__code__.co_varnames[: exercise.solution.__code__.co_argcount])
    source = f"def answer({arguments}):\n" + "".join(f"    {line}\n" for line in (*steps, last))
    namespace = {"torch": torch}
    exec(source, namespace)
    assert exercise.judge(namespace["answer"])[0]


@BY_NAME
def test_an_untouched_stub_is_not_attempted(exercise, capsys):
    def stub(*arguments):
        raise NotImplementedError

    check(exercise.name, stub)
    assert capsys.readouterr().out == f"{exercise.name}: {NOT_ATTEMPTED}\n"


@pytest.mark.parametrize(("exercise", "mistake"), MISTAKES, ids=lambda value: getattr(value, "name", "") or "")
def test_a_mistake_gets_its_own_diagnosis(exercise, mistake):
    assert exercise.judge(mistake.function) == (False, mistake.diagnosis)


@BY_NAME
def test_there_are_three_mistakes_with_different_diagnoses_and_three_hints(exercise):
    assert len({mistake.diagnosis for mistake in exercise.mistakes}) == len(exercise.mistakes) >= 3
    assert len(exercise.hints) == 3


@BY_NAME
def test_an_unknown_mistake_is_shown_a_case_and_an_exception_is_reported(exercise):
    right, verdict = exercise.judge(lambda values, number: values * 0 + 7)
    assert not right
    assert verdict.startswith("not yet: for ")
    assert exercise.judge(lambda values: values)[1].startswith("your function raised TypeError")


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="name must be one of temperature, top_p, min_p, got 'topp'"):
        check("topp", print)


def test_the_notebook_has_a_stub_a_check_and_the_hints_of_every_exercise():
    notebook = json.loads(Path("notebooks/02_sampling.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    for exercise in EXERCISES:
        [stub] = [cell for cell in code if f"def my_{exercise.name}(" in cell]
        assert "raise NotImplementedError" in stub
        assert ast.parse(stub)
        assert any(f'check("{exercise.name}", my_{exercise.name})' in cell for cell in code)
        assert all(hint in text for hint in exercise.hints)
    assert find_exercise("top_p").solution_source().startswith("def top_p_solution")
