"""The capstone's checks: what is right passes, and whatever is wrong is told what it does."""

import re
import textwrap
from dataclasses import dataclass

import pytest
import torch

from folovllm import SamplingParams
from folovllm.course import check_params, check_strategy, check_tests, finished_capstone
from folovllm.course.exercises.patterns import EXERCISES, drops_them_all, epsilon_solution, is_min_p
from folovllm.course.exercises.strategy_check import WRONG_STRATEGIES, ReferenceParams, ReferenceSampler
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
    verdict = said(capsys, llm, EpsilonSampler(lambda logits, epsilon: logits[0]))
    assert verdict.startswith("not yet: the engine stopped with ")
    assert said(capsys, llm, EpsilonSampler()).startswith("✔ right")


def test_a_sampler_that_ignores_epsilon_is_told_what_it_drew(llm, capsys):
    verdict = said(capsys, llm, Sampler())
    assert verdict.startswith("not yet: with epsilon=0.1 a token of probability 0.0")


def test_parameters_that_are_not_read_from_the_request_are_noticed(llm, capsys):
    for_all = EpsilonSampler(epsilon_of=lambda params: 0.1)
    assert said(capsys, llm, for_all) == (
        "not yet: requests that do not ask for epsilon got other tokens than without your sampler"
    )


def test_requests_without_an_epsilon_must_get_0(llm, capsys):
    sampler = EpsilonSampler(epsilon_of=lambda params: params.epsilon)
    assert said(capsys, llm, sampler) == (
        "not yet: other people's requests have no epsilon; getattr(each, 'epsilon', 0.0) gives them 0"
    )


def test_one_epsilon_for_the_whole_batch_is_noticed(llm, capsys):
    class FirstOfAll(Sampler):
        def refine(self, logits, params):
            return epsilon_solution(logits, torch.tensor([getattr(params[0], "epsilon", 0.0)] * len(params)))

    assert said(capsys, llm, FirstOfAll()).startswith("not yet: ")


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


# -- the parameter -----------------------------------------------------------------------------------------


def params_with(check, **namespace):
    """Return a class of parameters whose own check is ``check``."""

    def __post_init__(self):
        SamplingParams.__post_init__(self)
        check(self.epsilon)

    fields = {"__annotations__": {"epsilon": float}, "epsilon": 0.0, "__post_init__": __post_init__}
    return dataclass(frozen=True)(type("Params", (SamplingParams,), fields | namespace))


def refuse_unless(condition, message="epsilon must be in [0, 1), got {!r}"):
    def check(epsilon):
        if not condition(epsilon):
            raise ValueError(message.format(epsilon))

    return check


def is_allowed(epsilon):
    return isinstance(epsilon, int | float) and 0 <= epsilon < 1


def said_of_params(capsys, params_class):
    check_params(params_class)
    return capsys.readouterr().out.removeprefix("the parameter: ").rstrip()


def test_a_checked_parameter_passes(capsys):
    for right in (ReferenceParams, params_with(refuse_unless(is_allowed))):
        assert said_of_params(capsys, right).startswith("✔ right")


def test_an_untouched_parameter_is_not_attempted(capsys):
    def stub(epsilon):
        raise NotImplementedError

    assert said_of_params(capsys, params_with(stub)) == "not attempted yet"


def not_checked(self):
    """Stand for a __post_init__ that forgot those of SamplingParams."""
    refuse_unless(is_allowed)(self.epsilon)


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        (EpsilonParams, "epsilon=-0.1 is accepted"),
        (params_with(refuse_unless(lambda e: 0 <= e <= 1)), "epsilon=1 is accepted"),
        (params_with(refuse_unless(lambda e: not (e < 0 or e >= 1))), "epsilon=nan is accepted"),
        (params_with(refuse_unless(lambda e: 0 <= e < 1)), "epsilon='0.1' must be refused with a ValueError, not"),
        (params_with(refuse_unless(lambda e: 0 < e < 1)), "without arguments it must be made"),
        (params_with(refuse_unless(lambda e: is_allowed(e) and e < 0.9)), "epsilon=0.999 is allowed, and is refused"),
        (params_with(refuse_unless(is_allowed, "no")), "names not both field and value"),
        (params_with(refuse_unless(is_allowed), __post_init__=not_checked), "temperature=-1.0 is accepted"),
        (SamplingParams, "the field epsilon must be 0"),
        (EpsilonParams(), "give the class itself"),
        ("EpsilonParams", "give the class itself"),
    ],
)
def test_a_wrong_parameter_is_told_what_it_lets_through(capsys, wrong, verdict):
    said = said_of_params(capsys, wrong)
    assert said.startswith("not yet: ")
    assert verdict in said


# -- the tests ---------------------------------------------------------------------------------------------


def said_of_tests(capsys, tests):
    check_tests(tests)
    return capsys.readouterr().out.removeprefix("your tests: ").rstrip()


def first_test(strategy):
    """Be the one that the notebook gives."""
    kept = strategy(torch.tensor([[2.0, 1.0, -3.0]]), torch.tensor([0.1])) > -torch.inf
    assert kept.tolist() == [[True, True, False]]


def thorough_tests(strategy):
    first_test(strategy)
    rows = [[0.4, 0.3, 0.2, 0.1], [0.56, 0.2, 0.146, 0.094], [0.3, 0.3, 0.25, 0.15]]
    logits = torch.tensor(rows).log() + torch.tensor([[5.0], [-3.0], [0.0]])
    before = logits.clone()
    new = strategy(logits, torch.tensor([0.9, 0.148, 0.2]))
    kept = [[True, False, False, False], [True, True, False, False], [True, True, True, False]]
    assert (new > -torch.inf).tolist() == kept
    assert torch.equal(logits, before)
    assert torch.equal(new[new > -torch.inf], logits[new > -torch.inf])


def test_thorough_tests_catch_every_wrong_strategy(capsys):
    assert said_of_tests(capsys, thorough_tests) == "✔ they accept what is right and catch all 12 wrong strategies"


def test_no_wrong_strategy_is_right():
    [exercise] = EXERCISES
    assert not any(exercise.judge(strategy)[0] for strategy in WRONG_STRATEGIES.values())


def test_what_slips_through_is_named_in_two_lines(capsys):
    verdict = said_of_tests(capsys, first_test)
    assert verdict.startswith(
        "they catch 4 of 12 wrong strategies.\nSlipped through: one that compares the logit itself; "
    )
    assert verdict.endswith("; and 5 more")
    assert len(verdict.splitlines()) == 2


def test_tests_without_an_assertion_catch_nothing(capsys):
    assert said_of_tests(capsys, lambda strategy: None).startswith("they catch 0 of 12")


def test_tests_that_reject_a_right_strategy_are_wrong_themselves(capsys):
    def too_strict(strategy):
        assert strategy is epsilon_solution

    def broken(strategy):
        strategy([1.0], 0.1)

    assert "they reject a strategy that is right, with AssertionError" in said_of_tests(capsys, too_strict)
    assert "they reject a strategy that is right, with AttributeError" in said_of_tests(capsys, broken)
    assert said_of_tests(capsys, lambda strategy: stub(0, 0)) == "not attempted yet"


# -- the reward --------------------------------------------------------------------------------------------


def test_a_right_capstone_is_the_learners_own(llm, capsys):
    sampler = EpsilonSampler()
    capstone = finished_capstone(llm, epsilon_solution, sampler, ReferenceParams)
    assert capsys.readouterr().out == "your own strategy writes\n"
    assert capstone.sampler is sampler


@pytest.mark.parametrize(
    ("function", "sampler", "params_class", "missing"),
    [
        (stub, EpsilonSampler(stub), EpsilonParams, "the function, the parameter"),
        (drops_them_all, ReferenceSampler(), ReferenceParams, "the function"),
        (epsilon_solution, EpsilonSampler(is_min_p), ReferenceParams, "the sampler"),
    ],
)
def test_what_is_missing_is_named_and_the_courses_strategy_writes(
    llm, capsys, function, sampler, params_class, missing
):
    capstone = finished_capstone(llm, function, sampler, params_class)
    told = capsys.readouterr().out
    assert told == f"the course's strategy writes; yours will when it is right: {missing}\n"
    assert isinstance(capstone.sampler, ReferenceSampler)
    assert capstone.function is epsilon_solution
