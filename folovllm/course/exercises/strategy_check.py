"""The rest of chapter 06's capstone: a learner's parameter, sampler and tests, and the strategy that then writes."""

import math
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from folovllm.course.exercises import patterns
from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from folovllm.course.exercises.patterns import epsilon_solution
from folovllm.course.exercises.time_limit import SECONDS, TimeIsUp, call_in_time
from folovllm.language import N_, _, listed
from folovllm.llm import LLM
from folovllm.sampling.sampler import Sampler
from folovllm.sampling_params import SamplingParams
from folovllm.validation import real_number

Strategy = Callable[[Tensor, Tensor], Tensor]
"""From logits [num_seqs, vocab] and epsilon [num_seqs] to logits [num_seqs, vocab]."""


@dataclass(frozen=True)
class ReferenceParams(SamplingParams):
    """Sampling parameters with an epsilon in [0, 1); 0 is off."""

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= real_number("epsilon", self.epsilon) < 1:
            raise ValueError(f"epsilon must be in [0, 1), got {self.epsilon!r}")


class ReferenceSampler(Sampler):
    """Drops what is less probable than each request's epsilon."""

    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        """Return the logits of the tokens that may be drawn."""
        epsilons = [getattr(each, "epsilon", 0.0) for each in params]
        return epsilon_solution(logits, torch.tensor(epsilons, device=logits.device))


# -- the parameter -----------------------------------------------------------------------------------------


_ALLOWED: tuple[Any, ...] = (0, 0.0, 3e-4, 0.02, 0.5, 0.999, 1e-9, math.nextafter(1, 0))
_REFUSED: tuple[Any, ...] = (
    *(-0.1, 1, 1.0, 1.5, math.nan, math.inf, -math.inf, -1e-9, math.nextafter(1, 2)),
    *("0.1", None, [0.1], (0.1,), torch.tensor([0.1]), True, False, 0.5 + 0j),
)
_OTHER_SETTINGS: dict[str, Any] = {
    "n": 2,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 3,
    "max_tokens": 24,
    "stop": ["."],
}


def check_params(params_class: type[SamplingParams]) -> None:
    """Print what to make of a class of parameters with a checked field ``epsilon``."""
    print(_("the parameter: {verdict}").format(verdict=_judge_params(params_class)))


def _judge_params(params_class: Any) -> str:
    if not (isinstance(params_class, type) and issubclass(params_class, SamplingParams)):
        return _("not yet: give the class itself, a subclass of SamplingParams; got {params_class!r}").format(
            params_class=params_class
        )
    try:
        params_class()
    except NotImplementedError:
        return _(NOT_ATTEMPTED)
    except Exception as error:
        return _("not yet: without arguments it must be made, with epsilon 0; it raises {named}").format(
            named=_named(error)
        )
    return (
        _own_problem(params_class)
        or _kept_problem(params_class)
        or _(
            "✔ right: it takes {num_allowed} values, refuses {num_refused}, and checks the other fields as before"
        ).format(num_allowed=len(_ALLOWED), num_refused=len(_REFUSED))
    )


def _own_problem(params_class: Any) -> str:
    """Say what is wrong with the field itself; "" if nothing."""
    made = params_class()
    if not hasattr(made, "epsilon"):
        return _("not yet: there is no field epsilon")
    if made.epsilon != 0:
        return _("not yet: the field epsilon must be 0 when nobody sets it")
    for value in _ALLOWED:
        try:
            stored = params_class(epsilon=value).epsilon
        except Exception as error:
            return _("not yet: epsilon={value!r} is allowed, and is refused with {named}").format(
                value=value, named=_named(error)
            )
        if stored != value:
            return _("not yet: epsilon={value!r} is stored as {stored!r}").format(value=value, stored=stored)
    for value in _REFUSED:
        try:
            params_class(epsilon=value)
        except ValueError as error:
            if "epsilon" not in str(error) or str(value) not in str(error):
                return _(
                    "not yet: epsilon={value!r} is refused, but the message does not name both the field and "
                    "the value: {error}"
                ).format(value=value, error=error)
        except Exception as error:
            return _("not yet: epsilon={value!r} must be refused with a ValueError, not with {named}").format(
                value=value, named=_named(error)
            )
        else:
            why = (
                _("True and False are no numbers (chapter 01)")
                if isinstance(value, bool)
                else _("only numbers from 0 to below 1 are allowed")
            )
            return _("not yet: epsilon={value!r} is accepted; {why}").format(value=value, why=why)
    return ""


def _kept_problem(params_class: Any) -> str:
    """Say what of SamplingParams got lost; "" if nothing."""
    for name, value in {"temperature": -1.0, "top_p": 0.0, "stop": [""]}.items():
        try:
            params_class(**{name: value})
        except ValueError:
            continue
        return _(
            "not yet: {name}={value!r} is accepted; SamplingParams' own checks run in super().__post_init__()"
        ).format(name=name, value=value)
    for epsilon in _ALLOWED:
        for settings in ({}, _OTHER_SETTINGS):
            made, plain = params_class(epsilon=epsilon, **settings), SamplingParams(**settings)
            for each in fields(SamplingParams):
                given, wanted = getattr(made, each.name), getattr(plain, each.name)
                if given != wanted:
                    return _(
                        "not yet: with epsilon={epsilon!r} your class makes {name}={given!r} of {wanted!r}"
                    ).format(epsilon=epsilon, name=each.name, given=given, wanted=wanted)
    return "" if params_class(epsilon=0.02).clone().epsilon == 0.02 else _("not yet: clone() loses the epsilon")


# -- the place ---------------------------------------------------------------------------------------------


_ROUNDING = 1e-6
"""By so large a part of it a probability in float32 may be off."""
_PROMPT = "The best thing about summer is"
_EPSILONS = (0.1, 0.02, 0.3, 0.005)
_NUM_TOKENS = 8
_REQUESTS: tuple[tuple[bool, dict[str, Any]], ...] = (
    (True, {"seed": 0}),
    (True, {"seed": 1}),
    (True, {"temperature": 0.5}),
    (False, {"temperature": 0.5}),
    (True, {"top_k": 20}),
    (True, {"top_p": 0.9, "min_p": 0.01, "seed": 2}),
    (False, {"seed": 3}),
    (False, {"temperature": 0}),
)
"""Whether a request has an epsilon, and its other settings. The greedy one never meets a sampler's ``refine``."""
_Guess = Callable[[Tensor], Tensor]
"""From the epsilons of a step's rows to those that a wrong sampler uses."""
_GUESSES: dict[str, _Guess] = {
    N_("your sampler uses the first request's epsilon for all; each row has its own"): (
        lambda epsilons: epsilons[:1].expand_as(epsilons)
    ),
    N_("your sampler uses the largest epsilon of the batch for all; each row has its own"): (
        lambda epsilons: epsilons.max().expand_as(epsilons)
    ),
    N_("your sampler drops nothing; does it read the epsilons, and call my_epsilon?"): (
        lambda epsilons: torch.zeros_like(epsilons)
    ),
    N_("your sampler drops nothing in a batch in which one request has no epsilon; each row has its own"): (
        lambda epsilons: epsilons * (epsilons > 0).all()
    ),
}


def check_strategy(llm: LLM, sampler: Sampler, params_class: type[SamplingParams]) -> None:
    """Generate with a sampler in the engine's place, and print what to make of it.

    params_class: SamplingParams with a field ``epsilon``. Requests with and without it share a batch. In a second batch
    they come in another order, and leave one by one. The engine has its own sampler back afterwards.
    """
    print(_("epsilon in the engine: {verdict}").format(verdict=_judge(llm, sampler, params_class)))


class _Watched(Sampler):
    """Calls a learner's ``refine``, and compares each of its answers with the reference's to the same question."""

    def __init__(self, own: Sampler) -> None:
        super().__init__()
        self.own = own
        self.problem = ""
        self.batch = 1
        self.least: dict[float, float] = {}
        self._guesses = dict(_GUESSES)

    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        """Return what the learner's sampler makes of the logits."""
        given = call_in_time(SECONDS, self.own.refine, logits.clone(), params)
        if isinstance(given, Tensor) and given.shape == logits.shape:
            self._compare(logits, [getattr(each, "epsilon", 0.0) for each in params], given)
        return given

    @property
    def verdict(self) -> str:
        """What is wrong in all steps together; "" if nothing."""
        if not self.problem:
            return ""
        return next(map(_, self._guesses), self.problem)

    def _compare(self, logits: Tensor, asked: list[float], given: Tensor) -> None:
        epsilons = torch.tensor(asked, device=logits.device)
        right = epsilon_solution(logits, epsilons)
        self._guesses = {
            title: guess
            for title, guess in self._guesses.items()
            if torch.equal(given, epsilon_solution(logits, guess(epsilons)))
        }
        if not self.problem:
            found = _problem_of_a_step(logits, epsilons, given, right)
            if found and self.batch > 1:
                found = _(
                    "right in the first batch; in another one, with fewer requests or in another order: {found}"
                ).format(found=found)
            self.problem = found
        probs = logits.softmax(dim=-1)
        for row, epsilon in enumerate(asked):
            kept = probs[row][given[row] > -torch.inf]
            if len(kept) > 1:
                self.least[epsilon] = min(self.least.get(epsilon, 1.0), float(kept.min()))


def _problem_of_a_step(logits: Tensor, epsilons: Tensor, given: Tensor, right: Tensor) -> str:
    """Say what is wrong with the logits that a sampler returned in one step; "" if nothing.

    A token within rounding of its epsilon may stay or go.
    """
    probs = logits.softmax(dim=-1)
    decided = ((probs - epsilons[:, None]).abs() > _ROUNDING * epsilons[:, None]) | (epsilons == 0)[:, None]
    is_kept, should_stay = given > -torch.inf, right > -torch.inf
    is_same = torch.allclose(given[is_kept], logits[is_kept])
    sums = given.masked_fill(~is_kept, 0.0).sum(dim=-1)
    if not is_same and (given[is_kept] >= 0).all() and (sums < 1.001).all():
        return _("you return probabilities; refine must return logits, with -inf for what is dropped")
    wrongly_kept = is_kept & ~should_stay & decided
    if wrongly_kept.any():
        row, token = wrongly_kept.nonzero()[0].tolist()
        if given[row, token] != logits[row, token]:
            return _("a dropped token gets the logit {logit:.2g}; only -inf is never drawn").format(
                logit=given[row, token]
            )
        worst = probs[row][wrongly_kept[row]].min()
        return _("with epsilon={epsilon:.2g} a token of probability {worst:.2g} is kept").format(
            epsilon=epsilons[row], worst=worst
        )
    wrongly_dropped = ~is_kept & should_stay & decided
    if wrongly_dropped.any():
        row = int(wrongly_dropped.nonzero()[0, 0])
        best = probs[row][wrongly_dropped[row]].max()
        if epsilons[row] == 0:
            return _("a request that does not ask for epsilon loses a token of probability {best:.2g}").format(
                best=best
            )
        return _("with epsilon={epsilon:.2g} a token of probability {best:.2g} is dropped; is that too much?").format(
            epsilon=epsilons[row], best=best
        )
    if not is_same:
        return _("the logits of kept tokens are changed; they stay as they are, and only dropped ones become -inf")
    return ""


def _judge(llm: LLM, sampler: Sampler, params_class: type[SamplingParams]) -> str:
    if not isinstance(sampler, Sampler):
        return _("not yet: give an object of your class, MySampler(); got {sampler!r}").format(sampler=sampler)
    watched = _Watched(sampler)
    try:
        for watched.batch, requests in enumerate(_batches(params_class), 1):
            _run(llm, watched, requests)
    except NotImplementedError:
        return _(NOT_ATTEMPTED)
    except (Exception, TimeIsUp) as error:
        if "has no attribute 'epsilon'" in str(error):
            return _("not yet: other people's requests have no epsilon; getattr(each, 'epsilon', 0.0) gives them 0")
        return _("not yet: the engine stopped with {named}").format(named=_named(error))
    if watched.verdict:
        return _("not yet: {verdict}").format(verdict=watched.verdict)
    told = listed(
        _("{least:.2g} with epsilon={epsilon}").format(least=least, epsilon=epsilon)
        for epsilon, least in sorted(watched.least.items())
        if epsilon
    )
    return _(
        "✔ right, in batches of 1 to {num_requests}; the least probable token kept beside the likeliest: {told}"
    ).format(num_requests=len(_REQUESTS), told=told)


def _batches(params_class: type[SamplingParams]) -> tuple[list[SamplingParams], list[SamplingParams]]:
    """Return two batches of requests: some with epsilon, some drawn without, one greedy.

    The second one turns their order round, and its first request is the first to end, so that each kind stands first,
    last and in the middle, and one with epsilon is left alone. It begins with as many rows as the first one ended
    with: that tells who remembers.
    """
    lengths = range(_NUM_TOKENS, _NUM_TOKENS + len(_REQUESTS))
    first = _make(params_class, _EPSILONS, [_NUM_TOKENS] * len(_REQUESTS))
    return first, _make(params_class, _EPSILONS[::-1], lengths[::-1])[::-1]


def _make(
    params_class: type[SamplingParams], epsilons: Sequence[float], lengths: Sequence[int]
) -> list[SamplingParams]:
    epsilon, made = cycle(epsilons), list[SamplingParams]()
    for (has_epsilon, settings), length in zip(_REQUESTS, lengths, strict=True):
        asked = settings | {"max_tokens": length, "ignore_eos": True}
        made.append(params_class(**asked, epsilon=next(epsilon)) if has_epsilon else SamplingParams(**asked))  # type: ignore[call-arg]
    return made


def _run(llm: LLM, sampler: Sampler, requests: list[SamplingParams]) -> None:
    """Generate one batch with a sampler in the place of the engine's."""
    engine = llm.llm_engine
    own, engine.sampler = engine.sampler, sampler
    try:
        llm.generate([_PROMPT] * len(requests), requests, use_tqdm=False)
    finally:
        engine.sampler = own


# -- the tests ---------------------------------------------------------------------------------------------


def _in_float64(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Epsilon sampling by another road: right as well, so that tests may not demand the reference's steps."""
    wide = logits.double()
    logprobs = wide - wide.logsumexp(dim=-1, keepdim=True)
    keeps = (logprobs >= epsilon.double().log()[:, None]) | (wide == wide.amax(dim=-1, keepdim=True))
    return torch.where(keeps, logits, -torch.inf)


def _keeps_ties(strategy: Strategy) -> Strategy:
    """Return a strategy that keeps a token whose probability is epsilon up to rounding.

    A token exactly at epsilon stays. Whether float32 finds it there depends on the logits, on the road to the
    probability and on the computer: a learner's test of it must not.
    """
    return lambda logits, epsilon: strategy(logits, epsilon * (1 - _ROUNDING))


_RIGHT: tuple[Strategy, ...] = (_keeps_ties(epsilon_solution), _keeps_ties(_in_float64))
WRONG_STRATEGIES: dict[str, Strategy] = {
    N_("keeps every token"): patterns.keeps_everything,
    N_("sets dropped tokens to 0"): patterns.writes_zeros,
    N_("returns probabilities"): patterns.returns_probabilities,
    N_("compares the logit itself"): patterns.compares_logits,
    N_("compares exp(logit)"): patterns.does_not_normalise,
    N_("drops all where none reaches epsilon"): patterns.drops_them_all,
    N_("is min-p"): patterns.is_min_p,
    N_("uses the first row's epsilon for all"): patterns.has_one_epsilon,
    N_("keeps only the best of the whole batch"): patterns.keeps_the_best_of_the_batch,
    N_("runs the softmax over the batch"): patterns.takes_columns_for_rows,
    N_("rounds to two decimals"): patterns.rounds,
    N_("changes the caller's logits"): patterns.changes_its_argument,
    N_("keeps only the first of equally likely tokens"): patterns.keeps_the_first_of_equals,
    N_("drops a token exactly at epsilon"): patterns.drops_at_epsilon,
}
"""What a learner's tests must find out, by what each does."""


def check_tests(tests: Callable[[Strategy], Any]) -> None:
    """Run a learner's tests on right and on wrong strategies, and print which wrong ones slip through.

    tests: takes a strategy and raises, by ``assert``, if that is wrong.
    """
    print(_("your tests: {verdict}").format(verdict=_judge_tests(tests)))


def _judge_tests(tests: Callable[[Strategy], Any]) -> str:
    problem = _problem_with_what_is_right(tests)
    if problem:
        return problem
    slipped = [title for title, strategy in WRONG_STRATEGIES.items() if _try_tests(tests, strategy)[0] is None]
    num_wrong = len(WRONG_STRATEGIES)
    if not slipped:  # tests that count how often they are called catch the later ones, whatever those do
        return _problem_with_what_is_right(tests) or _(
            "✔ they accept what is right and catch all {num_wrong} wrong strategies"
        ).format(num_wrong=num_wrong)
    doubt = _(" Does your test assert anything?") if len(slipped) == num_wrong else ""
    told = "".join("\n    " + _("one that {title}").format(title=_(title)) for title in slipped)
    return _("they catch {caught} of {num_wrong} wrong strategies.{doubt} Slipped through:{told}").format(
        caught=num_wrong - len(slipped), num_wrong=num_wrong, doubt=doubt, told=told
    )


def _problem_with_what_is_right(tests: Callable[[Strategy], Any]) -> str:
    """Say what the tests have against a right strategy, or what they lack there; "" if nothing."""
    for strategy in _RIGHT:
        error, returned = _try_tests(tests, strategy)
        if isinstance(error, NotImplementedError):
            return _(NOT_ATTEMPTED)
        if error is not None:
            return _("not yet: they reject a strategy that is right, with {named}{line_of}").format(
                named=_named(error), line_of=_line_of(error)
            )
        if returned is not None:
            return _(
                "not yet: they return {returned!r}, and nobody looks at that; does your test assert anything?"
            ).format(returned=returned)
    return ""


def _try_tests(tests: Callable[[Strategy], Any], strategy: Strategy) -> tuple[BaseException | None, Any]:
    """Return what the tests raise for a strategy, None if they are content, and what they return."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return None, call_in_time(SECONDS, tests, strategy)
    except (Exception, TimeIsUp) as error:
        return error, None


def _line_of(error: BaseException) -> str:
    """Say which line of a learner's tests an error went through last; "" if it came before the first one."""
    frames = traceback.extract_tb(error.__traceback__)[2:]
    own = [frame for frame in frames if frame.filename == frames[0].filename]
    return _(" in line {lineno}: {line}").format(lineno=own[-1].lineno, line=own[-1].line) if own else ""


# -- the reward --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capstone:
    """A strategy that works: its function, the sampler that calls it, and the class of its parameters."""

    function: Strategy
    sampler: Sampler
    params_class: type[SamplingParams]


def finished_capstone(llm: LLM, function: Strategy, sampler: Sampler, params_class: type[SamplingParams]) -> Capstone:
    """Return the learner's strategy if all of it is right, else the course's, and print which."""
    [exercise] = patterns.EXERCISES
    verdicts = {
        N_("the function"): exercise.judge(function)[0],
        N_("the parameter"): _judge_params(params_class).startswith("✔"),
        N_("the place"): _judge(llm, sampler, params_class).startswith("✔"),
    }
    missing = [part for part, is_right in verdicts.items() if not is_right]
    if missing:
        print(_("The course's strategy writes. Still to do: {missing}.").format(missing=listed(map(_, missing))))
        return Capstone(epsilon_solution, ReferenceSampler(), ReferenceParams)
    print(_("your own strategy writes"))
    return Capstone(function, sampler, params_class)


def _named(error: BaseException) -> str:
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}: {told[0]}" if told else type(error).__name__
