"""The capstone's checks: what is right passes, and whatever is wrong is told what it does."""

import re
import sys
import textwrap
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from folovllm import SamplingParams
from folovllm.course import check_params, check_strategy, check_tests, finished_capstone
from folovllm.course.exercises.patterns import EXERCISES, params_check, strategy_check, watched_sampler
from folovllm.course.exercises.patterns.classes import ReferenceParams, ReferenceSampler
from folovllm.course.exercises.patterns.strategies import (
    drops_at_epsilon,
    drops_them_all,
    epsilon_solution,
    is_min_p,
    keeps_the_first_of_equals,
)
from folovllm.course.exercises.patterns.tests_check import WRONG_STRATEGIES
from folovllm.sampling.sampler import Sampler
from tests.test_time_limit import SOON, STOPPED, endless
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
    """Return an engine in which a test finds nothing of the one before: no prompt waits for its blocks, or does not."""
    return tiny_llm(enable_prefix_caching=False)


def stub(logits, epsilon):
    raise NotImplementedError


def epsilons_of(params):
    return [getattr(each, "epsilon", 0.0) for each in params]


def said(capsys, llm, sampler, params_class=EpsilonParams):
    before = llm.llm_engine.sampler
    check_strategy(llm, sampler, params_class)
    assert llm.llm_engine.sampler is before
    assert not llm.llm_engine.has_unfinished_requests()
    return capsys.readouterr().out.removeprefix("epsilon in the engine: ").rstrip()


def test_the_solution_passes_and_the_least_likely_tokens_are_told(llm, capsys):
    verdict = said(capsys, llm, EpsilonSampler())
    assert verdict.startswith("✔ right, in batches of 1 to 12; the least probable token kept beside the likeliest: ")
    told = [tuple(map(float, pair)) for pair in re.findall(r"(\S+) with epsilon=([\d.]+)", verdict)]
    assert len(told) >= 2
    assert all(least >= epsilon for least, epsilon in told)


def test_the_code_of_the_last_hint_passes(llm, capsys):
    namespace = {"torch": torch}
    body = textwrap.indent(EPSILON.code, "    ")
    exec(f"def answer(logits, epsilon):\n{body}", namespace)
    assert said(capsys, llm, EpsilonSampler(namespace["answer"])).startswith("✔ right")


def test_an_untouched_stub_is_not_attempted(llm, capsys):
    assert said(capsys, llm, EpsilonSampler(stub)) == "not attempted yet, or a part before it is not"


def test_an_exception_is_reported_and_the_engine_goes_on(llm, capsys):
    verdict = said(capsys, llm, EpsilonSampler(lambda logits, epsilon: logits[0]))
    assert verdict.startswith("not yet: the engine stopped with ")
    assert said(capsys, llm, EpsilonSampler()).startswith("✔ right")


def test_a_sampler_that_ignores_epsilon_is_told_so(llm, capsys):
    assert said(capsys, llm, Sampler()).startswith("not yet: your sampler drops nothing")


def test_parameters_that_are_not_read_from_the_request_are_noticed(llm, capsys):
    for_all = EpsilonSampler(epsilon_of=lambda params: 0.1)
    assert re.match(
        r"not yet: with epsilon=\S+ a token of probability \S+ is (kept|dropped)", said(capsys, llm, for_all)
    )
    others_too = EpsilonSampler(epsilon_of=lambda params: getattr(params, "epsilon", 0.1))
    assert "a request that does not ask for epsilon loses a token" in said(capsys, llm, others_too)


@pytest.mark.parametrize(("choose", "which"), [(lambda e: e[0], "the first request's"), (max, "the largest")])
def test_one_epsilon_for_the_whole_batch_is_named(llm, capsys, choose, which):
    class OneForAll(Sampler):
        def refine(self, logits, params):
            epsilon = choose(epsilons_of(params))
            return epsilon_solution(logits, torch.full((len(params),), epsilon))

    assert said(capsys, llm, OneForAll()).startswith(f"not yet: your sampler uses {which} epsilon")


def test_epsilons_that_are_remembered_are_noticed_in_the_second_batch(llm, capsys):
    class Remembers(Sampler):
        def refine(self, logits, params):
            if not hasattr(self, "epsilons") or len(self.epsilons) != len(params):
                self.epsilons = torch.tensor(epsilons_of(params))
            return epsilon_solution(logits, self.epsilons)

    assert said(capsys, llm, Remembers()).startswith("not yet: right in the first batch; in another one")


def test_epsilons_that_are_remembered_by_what_may_come_again_are_noticed(llm, capsys):
    class RemembersIds(Sampler):
        epsilons: ClassVar = {}

        def refine(self, logits, params):
            epsilons = epsilons_of(params)
            if len(params) == 1:
                epsilons = [self.epsilons.setdefault(id(params[0]), epsilons[0])]
            return epsilon_solution(logits, torch.tensor(epsilons))

    assert said(capsys, llm, RemembersIds()).startswith("not yet: a request gets the epsilon of one that has left")


def looked_up(logits, params):
    """Stand for one who looks a row's place up: the first of equal parameters is found."""
    for each in params:
        row = params.index(each)
        logits[row] = epsilon_solution(logits[row : row + 1], torch.tensor(epsilons_of([each])))[0]
    return logits


def by_request(logits, params):
    """Stand for one who keeps a row for each request: two texts of one share it."""
    refined = epsilon_solution(logits, torch.tensor(epsilons_of(params)))
    rows = {id(each): row for each, row in zip(params, refined, strict=True)}
    return torch.stack([rows[id(each)] for each in params])


def of_those_who_have_one(logits, params):
    """Stand for one who forgets which row an epsilon belongs to."""
    epsilons = [each.epsilon for each in params if hasattr(each, "epsilon")]
    return epsilon_solution(logits, torch.tensor(epsilons + [0.0] * (len(params) - len(epsilons))))


def not_in_the_last_row(logits, params):
    rest = epsilon_solution(logits[:-1], torch.tensor(epsilons_of(params[:-1])))
    return torch.cat([rest, logits[-1:]])


def not_in_the_first_row(logits, params):
    return not_in_the_last_row(logits.flip(0), params[::-1]).flip(0)


def not_for_one_alone(logits, params):
    return logits if len(params) == 1 else ReferenceSampler().refine(logits, params)


def if_the_first_has_one(logits, params):
    return ReferenceSampler().refine(logits, params) if hasattr(params[0], "epsilon") else logits


def if_the_last_has_one(logits, params):
    return if_the_first_has_one(logits.flip(0), params[::-1]).flip(0)


def if_all_have_one(logits, params):
    has_each = all(hasattr(each, "epsilon") for each in params)
    return ReferenceSampler().refine(logits, params) if has_each else logits


def by_settings(logits, params):
    """Stand for one who takes two requests of the same settings for one."""
    known = {(each.seed, each.temperature): getattr(each, "epsilon", 0.0) for each in params}
    return epsilon_solution(logits, torch.tensor([known[each.seed, each.temperature] for each in params]))


def each_request_n_times(logits, params):
    """Stand for one who takes a list of rows for a list of requests."""
    requests = {id(each): each for each in params}.values()
    return epsilon_solution(logits, torch.tensor([e for each in requests for e in epsilons_of([each] * each.n)]))


def brings_back_what_was_dropped(logits, params):
    return ReferenceSampler().refine(logits.nan_to_num(neginf=0.0), params)


def nothing_where_nobody_has_one(logits, params):
    return ReferenceSampler().refine(logits, params) if any(epsilons_of(params)) else None


def only_those_who_have_one(logits, params):
    return epsilon_solution(logits, torch.tensor([each.epsilon for each in params if hasattr(each, "epsilon")]))


def in_jumps_of_n(logits, params):
    epsilons, row = [0.0] * len(params), 0
    while row < len(params):
        end = min(row + params[row].n, len(params))
        epsilons[row:end] = epsilons_of([params[row]] * (end - row))
        row = end
    return epsilon_solution(logits, torch.tensor(epsilons))


def each_row_n_times_and_cut(logits, params):
    epsilons = [e for each in params for e in epsilons_of([each] * each.n)]
    return epsilon_solution(logits, torch.tensor(epsilons[: len(logits)]))


def min_p_for_want_of_an_epsilon(logits, params):
    epsilons = [getattr(each, "epsilon", 0.0) or each.min_p for each in params]
    return epsilon_solution(logits, torch.tensor(epsilons))


def only_up_to_03(logits, params):
    return epsilon_solution(logits, torch.tensor([min(each, 0.3) for each in epsilons_of(params)]))


def of_eight_rows(logits, params):
    return torch.cat([ReferenceSampler().refine(logits[:8], params[:8]), logits[8:]])


def epsilons_of_kind(dtype):
    return lambda logits, params: epsilon_solution(logits, torch.tensor(epsilons_of(params), dtype=dtype).float())


def remembers_the_list(epsilons={}):  # noqa: B006
    def refine(logits, params):
        key = id(params), len(params)
        return epsilon_solution(logits, epsilons.setdefault(key, torch.tensor(epsilons_of(params))))

    return refine


def remembers_first_and_last(epsilons={}):  # noqa: B006
    def refine(logits, params):
        asked = epsilons_of(params)
        key = len(params), asked[0], asked[-1]
        return epsilon_solution(logits, epsilons.setdefault(key, torch.tensor(asked)))

    return refine


def test_a_sampler_without_what_the_engine_asks_of_it_is_told_so(llm, capsys):
    class WithoutSuper(ReferenceSampler):
        def __init__(self):
            self.default = 0.0

    assert said(capsys, llm, WithoutSuper()).startswith("not yet: the engine stopped with AttributeError: ")


@pytest.mark.parametrize(
    ("refine", "verdict"),
    [
        (remembers_the_list(), "not yet: "),
        (remembers_first_and_last(), "not yet: "),
        (min_p_for_want_of_an_epsilon, "a request that does not ask for epsilon loses a token"),
        (
            only_up_to_03,
            "right until an epsilon is large, or tiny, or needs all digits of a float32: with epsilon=0.45",
        ),
        (of_eight_rows, "with epsilon="),
        (epsilons_of_kind(torch.float16), "with epsilon="),
        (epsilons_of_kind(torch.bfloat16), "with epsilon="),
        (each_request_n_times, "; `params` has one entry per row, whatever its n"),
        (brings_back_what_was_dropped, "a dropped token gets the logit 0"),
        (nothing_where_nobody_has_one, "Sampler.refine must return logits, got None"),
        (only_those_who_have_one, "; `params` has one entry per row, whatever its n"),
        (in_jumps_of_n, "right until another row follows n=2; `params` has one entry per row"),
        (each_row_n_times_and_cut, "right until another row follows n=2; `params` has one entry per row"),
        (of_those_who_have_one, "with epsilon="),
        (not_in_the_last_row, "in another one, with fewer requests or in another order: with epsilon="),
        (not_in_the_first_row, "with epsilon="),
        (not_for_one_alone, "with epsilon="),
        (if_the_first_has_one, "with epsilon="),
        (if_the_last_has_one, "with epsilon="),
        (if_all_have_one, "your sampler drops nothing in a batch in which one request has no epsilon"),
        (by_settings, "with epsilon="),
        (looked_up, "not yet: right until two rows have equal parameters"),
        (by_request, "not yet: right until two rows have equal parameters"),
    ],
)
def test_rows_that_are_left_out_or_mistaken_for_others_are_noticed(llm, capsys, refine, verdict):
    sampler = type("Careless", (Sampler,), {"refine": lambda self, logits, params: refine(logits, params)})
    told = said(capsys, llm, sampler())
    assert told.startswith("not yet: ")
    assert verdict in told


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        (lambda logits, epsilon: epsilon_solution(logits, epsilon).softmax(dim=-1), "you return probabilities"),
        (lambda logits, epsilon: epsilon_solution(logits, epsilon).log_softmax(dim=-1), "the logits of kept tokens"),
        (
            lambda logits, epsilon: epsilon_solution(logits, epsilon).clamp(min=-3e38),
            "a dropped token gets the logit -3",
        ),
        (lambda logits, epsilon: epsilon_solution(logits, epsilon * 0.9), "is kept"),
        (lambda logits, epsilon: epsilon_solution(logits, epsilon * (epsilon > 0.01)), "with epsilon=0.005 a token of"),
    ],
)
def test_what_a_sampler_returns_is_compared_in_each_step(llm, capsys, function, verdict):
    told = said(capsys, llm, EpsilonSampler(function))
    assert told.startswith("not yet: ")
    assert verdict in told


def test_a_class_instead_of_an_object_is_told(llm, capsys):
    assert said(capsys, llm, EpsilonSampler).startswith("not yet: give an object of your class")


def test_requests_without_an_epsilon_must_get_0(llm, capsys):
    sampler = EpsilonSampler(epsilon_of=lambda params: params.epsilon)
    assert said(capsys, llm, sampler) == (
        "not yet: other people's requests have no epsilon; getattr(each, 'epsilon', 0.0) gives them 0"
    )


@pytest.mark.parametrize(
    ("kind", "asked"), [("list", lambda sampler, params: params), ("Wrong", lambda sampler, params: sampler)]
)
def test_an_epsilon_that_is_asked_of_something_else_is_the_error_that_it_is(llm, capsys, kind, asked):
    class Wrong(Sampler):
        def refine(self, logits, params):
            return EPSILON.solution(logits, asked(self, params).epsilon)

    verdict = said(capsys, llm, Wrong())
    assert verdict.startswith("not yet: the engine stopped with AttributeError: ")
    assert f"'{kind}' object has no attribute 'epsilon'" in verdict


def test_dropping_too_much_is_noticed(llm, capsys):
    strict = EpsilonSampler(lambda logits, epsilon: EPSILON.solution(logits, epsilon * 1.5))
    assert said(capsys, llm, strict).endswith("is dropped; is that too much?")


# What happens exactly at epsilon or between equals, no model's logits show: the function's own check does.
_HIDDEN = (drops_at_epsilon, keeps_the_first_of_equals)
_VISIBLE = [each for each in EPSILON.mistakes if each.function not in _HIDDEN]


@pytest.mark.parametrize("mistake", _VISIBLE, ids=lambda mistake: mistake.function.__name__)
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
    return type(epsilon) in (int, float) and 0 <= epsilon < 1


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


def cools_down(self):
    """Stand for a __post_init__ that writes into a field of others."""
    SamplingParams.__post_init__(self)
    refuse_unless(is_allowed)(self.epsilon)
    self._set("temperature", self.temperature / 2)


def checked_only_without_epsilon(self):
    """Stand for a __post_init__ that leaves the checks of SamplingParams out where epsilon is on."""
    if self.epsilon == 0:
        SamplingParams.__post_init__(self)
    refuse_unless(is_allowed)(self.epsilon)


def unchecked_where_greedy(self):
    """Stand for a __post_init__ that leaves its check out where nobody would read epsilon."""
    SamplingParams.__post_init__(self)
    if self.temperature > 0:
        refuse_unless(is_allowed)(self.epsilon)


def never_greedy(self):
    """Stand for a __post_init__ with a rule that nobody asked for."""
    SamplingParams.__post_init__(self)
    refuse_unless(is_allowed)(self.epsilon)
    if self.epsilon > 0 and self.temperature == 0:
        raise ValueError("epsilon needs a temperature")


@pytest.mark.parametrize(
    ("wrong", "verdict"),
    [
        (params_with(refuse_unless(is_allowed), __post_init__=checked_only_without_epsilon), "=-1.0 is accepted"),
        (params_with(refuse_unless(is_allowed), __post_init__=unchecked_where_greedy), "epsilon=-0.1 is accepted"),
        (params_with(refuse_unless(is_allowed), __post_init__=never_greedy), "'temperature': 0} is refused with"),
        (EpsilonParams, "epsilon=-0.1 is accepted"),
        (params_with(refuse_unless(lambda e: 0 <= e <= 1)), "epsilon=1 is accepted"),
        (params_with(refuse_unless(lambda e: not (e < 0 or e >= 1))), "epsilon=nan is accepted"),
        (params_with(refuse_unless(lambda e: 0 <= e < 1)), "epsilon='0.1' must be refused with a ValueError, not"),
        (params_with(refuse_unless(lambda e: 0 < e < 1)), "without arguments it must be made"),
        (params_with(refuse_unless(lambda e: is_allowed(e) and e < 0.9)), "epsilon=0.999 is allowed, and is refused"),
        (
            params_with(refuse_unless(lambda e: isinstance(e, int | float) and 0 <= e < 1)),
            "epsilon=False is accepted; True",
        ),
        (params_with(refuse_unless(lambda e: is_allowed(e) and not 0 < e < 1e-3)), "epsilon=0.0003 is allowed, and is"),
        (params_with(refuse_unless(lambda e: is_allowed(e) and e <= 0.999)), "is allowed, and is refused"),
        (params_with(refuse_unless(lambda e: is_allowed(e) and not 0 < e < 1e-4)), "epsilon=1e-09 is allowed, and is"),
        (params_with(refuse_unless(lambda e: is_allowed(e) or -1e-3 <= e < 0)), "epsilon=-1e-09 is accepted"),
        (
            params_with(refuse_unless(lambda e: is_allowed(e) or 1 < e < 1.001)),
            "epsilon=1.0000000000000002 is accepted",
        ),
        (params_with(refuse_unless(lambda e: isinstance(e, list) or is_allowed(e))), "epsilon=[0.1] is accepted"),
        (
            params_with(refuse_unless(lambda e: hasattr(e, "shape") or is_allowed(e))),
            "epsilon=tensor([0.1000]) is accepted",
        ),
        (params_with(refuse_unless(is_allowed), __post_init__=cools_down), "your class makes temperature=0.5 of 1.0"),
        (params_with(refuse_unless(is_allowed, "no")), "does not name both the field and the value"),
        (params_with(refuse_unless(is_allowed), __post_init__=not_checked), "temperature=-1.0 is accepted"),
        (SamplingParams, "there is no field epsilon"),
        (EpsilonParams(), "give the class itself, a subclass of SamplingParams; got an object of EpsilonParams"),
        ("EpsilonParams", "give the class itself, a subclass of SamplingParams; got an object of str"),
        (EpsilonSampler, "give the class itself, a subclass of SamplingParams; got EpsilonSampler"),
        (type("Bare", (SamplingParams,), {"epsilon": 0.0}), "is @dataclass(frozen=True) on the line above it?"),
    ],
)
def test_a_wrong_parameter_is_told_what_it_lets_through(capsys, wrong, verdict):
    said = said_of_params(capsys, wrong)
    assert said.startswith("not yet: ")
    assert verdict in said


@pytest.fixture
def little_time(monkeypatch):
    for module in (params_check, strategy_check, watched_sampler):
        monkeypatch.setattr(module, "SECONDS", SOON)


def test_a_class_that_never_ends_its_checks_is_stopped(llm, capsys, little_time):
    forever = params_with(endless)
    assert said_of_params(capsys, forever) == f"not yet: your code {STOPPED}"
    assert said(capsys, llm, EpsilonSampler(), forever) == f"not yet: your code {STOPPED}"


def test_a_sampler_that_never_ends_is_asked_once(llm, capsys, little_time):
    asked = []

    def counted(logits, epsilon):
        asked.append(len(logits))
        endless()

    assert said(capsys, llm, EpsilonSampler(counted)) == f"not yet: your code {STOPPED}"
    assert len(asked) == 1
    assert said(capsys, llm, EpsilonSampler()).startswith("✔ right")


def test_a_class_is_no_object_for_the_engine_either(llm, capsys):
    assert said(capsys, llm, EpsilonSampler(), EpsilonParams()).endswith("got an object of EpsilonParams")


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
    even = torch.tensor([[1.0, 1.0, 0.0]] * 2)
    at = even.softmax(dim=-1)[0, 2].item()
    assert (strategy(even, torch.tensor([0.9, at])) > -torch.inf).sum() == 5


def test_thorough_tests_catch_every_wrong_strategy(capsys):
    assert said_of_tests(capsys, thorough_tests) == "✔ they accept what is right and catch all 15 wrong strategies"


def test_no_wrong_strategy_is_right():
    [exercise] = EXERCISES
    assert not any(exercise.judge(strategy)[0] for strategy in WRONG_STRATEGIES.values())


def test_all_that_slips_through_is_named(capsys):
    first, *slipped = said_of_tests(capsys, first_test).splitlines()
    assert first == "they catch 4 of 15 wrong strategies. Slipped through:"
    assert len(slipped) == 11
    assert "    one that compares the logit itself" in slipped


def test_tests_without_an_assertion_catch_nothing(capsys):
    verdict = said_of_tests(capsys, lambda strategy: None)
    assert verdict.startswith("they catch 0 of 15 wrong strategies. Does your test assert anything?")


def test_a_test_that_returns_its_verdict_is_told_that_nobody_looks(capsys):
    verdict = said_of_tests(capsys, lambda strategy: strategy(torch.zeros(1, 2), torch.zeros(1)) is None)
    assert verdict == "not yet: they return False, and nobody looks at that; does your test assert anything?"


def test_complete_tests_may_return_what_they_like(capsys):
    def counted(strategy):
        thorough_tests(strategy)
        return True

    assert said_of_tests(capsys, counted).startswith("✔")


def test_tests_that_leave_python_are_told_so(capsys):
    assert "they reject a strategy that is right, with SystemExit" in said_of_tests(capsys, lambda strategy: sys.exit())


def test_tests_that_reject_a_right_strategy_are_wrong_themselves(capsys):
    def too_strict(strategy):
        assert strategy is epsilon_solution

    def broken(strategy):
        strategy([1.0], 0.1)

    assert re.fullmatch(
        r"not yet: they reject a strategy that is right, with AssertionError.* in line \d+: "
        r"assert strategy is epsilon_solution",
        said_of_tests(capsys, too_strict),
    )
    assert re.search(r"with AttributeError: .* in line \d+: strategy\(\[1.0\], 0.1\)$", said_of_tests(capsys, broken))
    assert "with TypeError: " in said_of_tests(capsys, lambda: None)  # no line of theirs was run
    assert said_of_tests(capsys, lambda strategy: stub(0, 0)) == "not attempted yet"


_PARTS = [(0.5, 0.25, 0.25), (0.4, 0.3, 0.2, 0.1), (0.5, 0.3, 0.2), (0.6, 0.3, 0.1), (0.35, 0.34, 0.31), (0.9, 0.1)]


@pytest.mark.parametrize("shift", [0.0, 5.0, -3.0, 7.0])
@pytest.mark.parametrize("probabilities", _PARTS, ids=str)
def test_that_a_token_exactly_at_epsilon_stays_can_be_tested(capsys, probabilities, shift):
    """Rounding must not decide: neither that of the logits, nor that of a strategy."""
    logits = torch.tensor([probabilities]).log() + shift

    def tests(strategy):
        thorough_tests(strategy)
        for i, written in enumerate(probabilities):
            for epsilon in (torch.tensor([written]), logits.softmax(dim=-1)[:, i]):
                assert strategy(logits, epsilon)[0, i] > -torch.inf

    assert said_of_tests(capsys, tests).startswith("✔ ")


def test_that_a_token_just_below_epsilon_goes_can_be_tested(capsys):
    def tests(strategy):
        thorough_tests(strategy)
        kept = strategy(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0.250001])) > -torch.inf
        assert kept.tolist() == [[True, False, False]]

    assert said_of_tests(capsys, tests).startswith("✔ ")


# -- the reward --------------------------------------------------------------------------------------------


def test_a_right_capstone_is_the_learners_own(llm, capsys):
    sampler = EpsilonSampler()
    capstone = finished_capstone(llm, epsilon_solution, sampler, ReferenceParams)
    assert capsys.readouterr().out == "your own strategy writes\n"
    assert capstone.sampler is sampler


@pytest.mark.parametrize(
    ("function", "sampler", "params_class", "missing"),
    [
        (stub, EpsilonSampler(stub), EpsilonParams, "the function, the parameter, the place"),
        (drops_them_all, ReferenceSampler(), ReferenceParams, "the function"),
        (epsilon_solution, EpsilonSampler(is_min_p), ReferenceParams, "the place"),
    ],
)
def test_what_is_missing_is_named_and_the_courses_strategy_writes(
    llm, capsys, function, sampler, params_class, missing
):
    capstone = finished_capstone(llm, function, sampler, params_class)
    told = capsys.readouterr().out
    assert told == f"The course's strategy writes. Still to do: {missing}.\n"
    assert isinstance(capstone.sampler, ReferenceSampler)
    assert capstone.function is epsilon_solution
