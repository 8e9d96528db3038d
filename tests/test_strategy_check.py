"""The capstone's check in the engine: right wiring passes, and each wrong one is told what it does."""

import re
import textwrap
from dataclasses import dataclass

import pytest
import torch

from folovllm import SamplingParams
from folovllm.course import check_strategy
from folovllm.course.exercises.patterns import EXERCISES
from folovllm.sampling.sampler import Sampler
from tests.tiny_models import tiny_llm

[EPSILON] = EXERCISES


@dataclass(frozen=True)
class EpsilonParams(SamplingParams):
    epsilon: float = 0.0


class EpsilonSampler(Sampler):
    """What the notebook's last cells build, around any function."""

    def __init__(self, function=EPSILON.solution, epsilon_of=lambda params: getattr(params, "epsilon", 0.0)):
        super().__init__()
        self.function, self.epsilon_of = function, epsilon_of

    def refine(self, logits, params):
        return self.function(logits, torch.tensor([self.epsilon_of(each) for each in params]))


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


def stub(logits, epsilon):
    raise NotImplementedError


def said(capsys, llm, sampler, params_class=EpsilonParams):
    before = llm.llm_engine.sampler
    check_strategy(llm, sampler, params_class)
    assert llm.llm_engine.sampler is before
    assert not llm.llm_engine.has_unfinished_requests()
    return capsys.readouterr().out.removeprefix("epsilon in the engine: ").rstrip()


def test_the_solution_passes_and_the_least_likely_tokens_are_told(llm, capsys):
    verdict = said(capsys, llm, EpsilonSampler())
    assert verdict.startswith("✔ right, in a batch of 4; the least probable draw, first choices apart: ")
    strict, mild, off = (float(number) for number in re.findall(r"(\S+) with epsilon", verdict))
    assert strict >= 0.1
    assert 0.1 > mild >= 0.02 > off


def test_the_code_of_the_last_hint_passes(llm, capsys):
    namespace = {"torch": torch}
    body = textwrap.indent(EPSILON.code, "    ")
    exec(f"def answer(logits, epsilon):\n{body}", namespace)
    assert said(capsys, llm, EpsilonSampler(namespace["answer"])).startswith("✔ right")


def test_an_untouched_stub_is_not_attempted(llm, capsys):
    assert said(capsys, llm, EpsilonSampler(stub)) == "not attempted yet"


def test_an_exception_is_reported_and_the_engine_goes_on(llm, capsys):
    assert said(capsys, llm, EpsilonSampler(lambda logits, epsilon: logits[0])).startswith("the engine stopped with ")
    assert said(capsys, llm, EpsilonSampler()).startswith("✔ right")


def test_a_sampler_that_ignores_epsilon_is_told_what_it_drew(llm, capsys):
    verdict = said(capsys, llm, Sampler())
    assert verdict.startswith("not yet: with epsilon=0.1 a token of probability 0.0")


def test_parameters_that_are_not_read_from_the_request_are_noticed(llm, capsys):
    for_all = EpsilonSampler(epsilon_of=lambda params: 0.1)
    assert said(capsys, llm, for_all) == (
        "not yet: requests that do not ask for epsilon got other tokens than without your sampler"
    )


def test_dropping_too_much_is_noticed(llm, capsys):
    strict = EpsilonSampler(lambda logits, epsilon: EPSILON.solution(logits, epsilon * 1.5))
    assert said(capsys, llm, strict).startswith("not yet: no token was too unlikely, but")


@pytest.mark.parametrize("mistake", EPSILON.mistakes, ids=lambda mistake: mistake.function.__name__)
def test_no_mistake_of_the_exercise_passes_in_the_engine(llm, capsys, mistake):
    assert "✔" not in said(capsys, llm, EpsilonSampler(mistake.function))


def test_a_field_alone_changes_nothing(llm):
    prompt = {"prompt_token_ids": [5, 6, 7]}
    texts = {
        tuple(llm.generate(prompt, EpsilonParams(epsilon=epsilon, seed=1), use_tqdm=False)[0].outputs[0].token_ids)
        for epsilon in (0.0, 0.5)
    }
    assert len(texts) == 1
