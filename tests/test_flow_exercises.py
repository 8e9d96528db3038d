"""The loop that learners write in chapter 05 is held against ``LLM.generate`` on a model of HuggingFace's own."""

import pytest

from folovllm.course.exercises.data_flow import compare_with_engine, generate_solution
from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from tests.tiny_models import hf_greedy, tiny_llm, tiny_model


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def verdicts(printed):
    return [line.rsplit(": ", 1)[1] for line in printed.splitlines()]


def test_the_solution_gives_the_tokens_of_the_engine_and_of_huggingface(llm, model, capsys):
    compare_with_engine(llm, model, generate_solution)
    assert verdicts(capsys.readouterr().out) == ["True", "True"]

    def huggingface(tokenizer, model, sampler, text, max_tokens):
        return hf_greedy(model, tokenizer.encode(text), max_tokens)

    compare_with_engine(llm, model, huggingface)
    assert verdicts(capsys.readouterr().out) == ["True", "True"]


def test_a_loop_that_forgets_what_it_wrote_differs(llm, model, capsys):
    def forgetful(tokenizer, model, sampler, text, max_tokens):
        return generate_solution(tokenizer, model, sampler, text, 1) * max_tokens

    compare_with_engine(llm, model, forgetful)
    assert verdicts(capsys.readouterr().out) == ["False", "False"]


def test_an_untouched_stub_is_not_attempted(llm, model, capsys):
    def stub(*arguments):
        raise NotImplementedError

    compare_with_engine(llm, model, stub)
    assert capsys.readouterr().out == f"your loop on the real model: {NOT_ATTEMPTED}\n"
