"""Every exercise accepts its solution, knows an untouched stub, and names each mistake."""

import ast
import html
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from folovllm.course.exercises.checks import CHAPTERS, EXERCISES, check, find_exercise
from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from folovllm.course.exercises.outcome import kind_of, show
from folovllm.request import ALLOWED_TRANSITIONS

NAMESPACE = {"json": json, "torch": torch, "ALLOWED_TRANSITIONS": ALLOWED_TRANSITIONS}
"""What the notebooks have imported where a solution is written."""
MISTAKES = [(exercise, mistake) for exercise in EXERCISES for mistake in exercise.mistakes]
BY_NAME = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


def arguments_of(exercise):
    return ", ".join(exercise.argument_names)


@BY_NAME
def test_the_solution_passes(exercise):
    assert exercise.judge(exercise.solution) == (True, f"right, on all {len(exercise.all_cases)} inputs")


@BY_NAME
def test_the_code_of_the_last_hint_passes(exercise):
    namespace = dict(NAMESPACE)
    exec(f"def answer({arguments_of(exercise)}):\n{textwrap.indent(exercise.code, '    ')}", namespace)
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


def _columns_from_one(mask):
    return (torch.arange(mask.shape[1]) + 1) * mask


def _keeps_of_equals(which):
    def answer(logits, epsilon):
        dropped = logits.softmax(dim=-1) < epsilon[:, None]
        return logits.masked_fill(dropped.scatter(1, which(logits), False), -torch.inf)

    return answer


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("position_ids", lambda mask: torch.arange(mask.shape[1]) * mask, "you count columns, though padding gets 0"),
        ("position_ids", _columns_from_one, "not yet: for mask=[[0, 0, 1, 1, 1]"),
        ("epsilon", _keeps_of_equals(lambda logits: logits.argmax(-1, keepdim=True)), "almost: of several equally"),
        ("epsilon", _keeps_of_equals(lambda logits: logits.softmax(-1).argmax(-1, True)), "almost: of several equally"),
        ("epsilon", _keeps_of_equals(lambda logits: logits.shape[1] - 1 - logits.flip(1).argmax(1, True)), "not yet"),
    ],
)
def test_a_diagnosis_is_for_its_mistake_and_not_for_a_near_one(name, answer, said):
    assert find_exercise(name).judge(answer)[1].startswith(said)


@pytest.mark.parametrize(
    ("language", "message", "said"),
    [
        (
            "en",
            "a block_size must be > 0",
            "the first difference: 'a block_size must be' in place of 'block_size must be a'",
        ),
        (
            "en",
            "block_size must be a positive int",
            "the first difference: 'a positive int' in place of 'an int >= 1, got 0'",
        ),
        ("en", "block_size must be an int >= 1", "the first difference: '1' in place of '1, got 0'"),
        ("zh", "block_size must be an int >= 1, got 0.", "第一处不同：写了 '0.'，应为 '0'"),
    ],
)
def test_an_errors_message_is_compared_and_the_first_difference_shown(language, message, said, monkeypatch):
    monkeypatch.setenv("FOLOVLLM_LANG", language)

    def refuse(value):
        raise ValueError(message)

    assert find_exercise("block_size").judge(lambda value: value if value == 16 else refuse(value))[1].endswith(said)


@BY_NAME
def test_there_are_three_mistakes_with_different_diagnoses_and_three_hints(exercise):
    assert len({mistake.diagnosis for mistake in exercise.mistakes}) == len(exercise.mistakes) >= 3
    assert len({*exercise.hints, exercise.code}) == 3


@BY_NAME
def test_an_unknown_mistake_is_shown_a_case(exercise):
    right, verdict = exercise.judge(lambda *arguments: "nonsense")
    assert not right
    assert verdict.startswith("not yet: for ")
    assert re.search("your function returns (a str, )?'nonsense'; right: ", verdict)


@BY_NAME
def test_an_exception_is_shown(exercise):
    right, verdict = exercise.judge(lambda: 1)
    assert not right
    assert "your function raises TypeError: " in verdict


def test_every_chapter_has_three_exercises_and_the_last_one_its_capstone():
    counts = {chapter: len(exercises) for chapter, exercises in CHAPTERS.items()}
    assert counts.pop("06_patterns_and_next") == 1
    assert all(count >= 3 for count in counts.values())
    assert len({exercise.name for exercise in EXERCISES}) == len(EXERCISES)


def test_a_name_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=r"name must be one of .*temperature, top_p, min_p.*, got 'topp'"):
        check("topp", print)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_notebook_has_a_stub_a_check_and_the_hints_of_every_exercise(chapter):
    notebook = json.loads(Path(f"notebooks/{chapter}.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    for exercise in CHAPTERS[chapter]:
        [stub] = [cell for cell in code if f"def my_{exercise.name}({arguments_of(exercise)})" in cell]
        assert "raise NotImplementedError" in stub
        assert ast.parse(stub)
        assert any(f'check("{exercise.name}", my_{exercise.name})' in cell for cell in code)
        assert html.escape(exercise.code, quote=False) in text
        for hint in exercise.hints:
            assert re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(hint, quote=False)) in text
    solved = find_exercise(CHAPTERS[chapter][0].name)
    assert solved.solution_source().startswith(f"def {solved.name}_solution")


@pytest.mark.parametrize(
    "back",
    [
        lambda blocks, stored: torch.where(stored > 0, blocks / stored, 0).round() * stored,
        lambda blocks, stored: ((blocks / stored).round() * stored).nan_to_num(0),
        lambda blocks, stored: (blocks / torch.where(stored > 0, stored, 1.0)).round() * stored,
        lambda blocks, stored: torch.where(blocks.any(1, keepdim=True), (blocks / stored).round() * stored, 0),
    ],
)
def test_dividing_by_the_stored_scale_is_named_however_zeros_are_kept(back):
    def answer(weights):
        blocks = weights.reshape(-1, 32)
        stored = (blocks.abs().amax(1, keepdim=True) / 127).half().float()
        return back(blocks, stored).reshape(weights.shape)

    verdict = find_exercise("q8_0").judge(answer)[1]
    assert verdict.startswith("almost: you divide by the scale as it is stored")


def test_a_result_that_a_later_call_changes_is_refused_and_shown_as_it_was():
    kept: list[int] = []

    def my_fork(tokens, seed, num_forks, new_token):
        kept[:] = [*tokens, new_token]
        return tokens, kept, seed + num_forks + 1

    right, said = find_exercise("fork").judge(my_fork)
    assert not right
    assert (
        said.splitlines()[1].strip() == "what your function returned is changed by a later call; return something new"
    )
    assert "tokens=[], seed=0, num_forks=0, new_token=1" in said


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_a_tensor_may_be_a_view_of_the_file():
    def my_read_tensor(content, name):
        begin = 8 + int.from_bytes(content[:8], "little")
        entry = json.loads(content[8:begin])[name]
        first, last = entry["data_offsets"]
        dtype = {"F32": torch.float32, "BF16": torch.bfloat16}[entry["dtype"]]
        count = (last - first) // dtype.itemsize
        return torch.frombuffer(content, dtype=dtype, count=count, offset=begin + first).reshape(entry["shape"])

    assert find_exercise("read_tensor").judge(my_read_tensor)[0]


def test_what_an_answer_sets_for_all_ends_with_it():
    def my_stop(text, stop):
        torch.set_default_dtype(torch.bfloat16)
        np.seterr(all="raise")
        return text

    before = torch.get_default_dtype(), np.geterr()
    assert not find_exercise("stop").judge(my_stop)[0]
    assert (torch.get_default_dtype(), np.geterr()) == before


def test_an_array_of_many_lines_is_shown_in_one():
    array = np.arange(12).reshape(3, 4)
    assert show(array).startswith("array([[ 0,")
    assert "\n" not in show(array)
    assert kind_of(array) == "an ndarray"
    assert kind_of(np.uint8(1)) == "a uint8"
