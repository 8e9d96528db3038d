"""The loop that learners write in chapter 05 is held against ``LLM.generate`` on a model of HuggingFace's own."""

import copy
import sys

import pytest
import torch

from folovllm import LLM, SamplingParams
from folovllm.course.exercises.checks import find_exercise
from folovllm.course.exercises.data_flow import comparison
from folovllm.course.exercises.data_flow.comparison import COMPARED, compare_with_engine
from folovllm.course.exercises.data_flow.generate import generate_solution
from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from tests.tiny_models import hf_greedy, tiny_llm, tiny_model
from tests.wrong_answers import data_flow as wrong_answers


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def verdicts(printed):
    return [line.rsplit(": ", 1)[1] for line in printed.splitlines() if "are the same" in line]


def test_one_prompt_holds_an_eos_and_is_answered_with_one():
    llm = LLM()
    eos = llm.get_tokenizer().eos_token_id
    prompts = [text for text, temperature in COMPARED if temperature == 0]
    limited, ended = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=16), use_tqdm=False)
    assert limited.outputs[0].finish_reason == "length"
    assert eos in ended.prompt_token_ids
    assert ended.outputs[0].token_ids[-1] == eos


def test_the_solution_gives_the_tokens_of_the_engine_and_of_huggingface(llm, model, capsys):
    compare_with_engine(llm, model, generate_solution)
    assert verdicts(capsys.readouterr().out) == ["True"] * 3

    def huggingface(tokenizer, model, sampler, text, max_tokens):
        return hf_greedy(model, tokenizer.encode(text), max_tokens)

    compare_with_engine(llm, model, huggingface)
    assert verdicts(capsys.readouterr().out) == ["True", "True", "False"]  # it is greedy, whatever the sampler


def test_a_loop_that_forgets_what_it_wrote_differs(llm, model, capsys):
    def forgetful(tokenizer, model, sampler, text, max_tokens):
        return generate_solution(tokenizer, model, sampler, text, 1) * max_tokens

    compare_with_engine(llm, model, forgetful)
    assert verdicts(capsys.readouterr().out) == ["False"] * 3


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        (lambda *arguments: 1 / 0, "your loop raises ZeroDivisionError: "),
        (lambda *arguments: sys.exit(), "your loop raises SystemExit: "),
        (lambda *arguments: None, "your loop returns None; right: a list of token ids"),
        (lambda *arguments: "Paris", "your loop returns a str; right: a list of token ids"),
        (lambda *arguments: torch.tensor([1]), "your loop returns a tensor of int64, shape [1]; right: a list of"),
        (lambda *arguments: [1, 0.5], "your loop returns a list with 0.5, which is no token id"),
        (lambda *arguments: [1, -1], "your loop returns a list with -1, which is no token id"),
        (lambda *arguments: [10**9], "your loop returns a list with 1000000000, which is no token id"),
    ],
)
def test_a_loop_that_fails_or_returns_something_else_is_told_so(llm, model, capsys, loop, said):
    compare_with_engine(llm, model, loop)
    assert capsys.readouterr().out.count(said) == 3


@pytest.mark.parametrize(
    ("given", "said"), [([5, 6], "you leave the end"), ([5], "you end early"), ([], "you end early"), ([6], "")]
)
def test_a_loop_is_told_of_its_mistake_with_the_end(given, said):
    assert comparison._why_they_differ(given, [5, 6, 9], eos=9).strip(" (").startswith(said)
    assert comparison._why_they_differ([5, 6, 9], [5, 6, 9], eos=9) == ""


def test_a_loop_without_an_end_is_stopped_once(llm, model, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "_SECONDS", 0.5)
    compare_with_engine(llm, model, lambda *given: generate_solution(*given[:-1], sys.maxsize))
    assert capsys.readouterr().out.count("your loop was stopped because it took too long") == 1


def test_an_untouched_stub_is_not_attempted(llm, model, capsys):
    def stub(*arguments):
        raise NotImplementedError

    compare_with_engine(llm, model, stub)
    assert capsys.readouterr().out == f"your loop on the real model: {NOT_ATTEMPTED}\n"


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (wrong_answers.shown_without_one_byte, "half a character may have up to three"),
        (wrong_answers.shown_with_marks_only, "you show half a character"),
        (wrong_answers.shown_with_marks_in_the_endings, "you show half a character"),
        (wrong_answers.generate_encodes_the_text_anew, "you encode the text anew"),
        (wrong_answers.generate_encodes_the_output_anew, "you encode"),
        (wrong_answers.generate_ids_of_the_new_text, "you encode"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_likely_mistake_is_told_what_it_does(answer, diagnosis):
    assert diagnosis in find_exercise(answer.__name__.split("_")[0]).judge(answer)[1]


def test_the_prompt_of_a_loop_often_holds_an_eos():
    runs = find_exercise("generate").all_cases
    assert sum(tokenizer.eos_token_id in tokenizer.encode(text) for tokenizer, _, _, text, _ in runs) >= 50


def test_a_text_often_has_other_ids_than_those_that_were_drawn():
    runs = copy.deepcopy(find_exercise("generate").all_cases)  # a sampler counts its draws
    differs = 0
    for run in runs:
        tokenizer, _, _, text, _ = run
        prompt = tokenizer.encode(text)
        assert tokenizer.decode(prompt, skip_special_tokens=True) == text
        ids = prompt + generate_solution(*run)
        differs += tokenizer.encode(tokenizer.decode(ids, skip_special_tokens=True)) != ids
    assert differs >= 25
