"""The rest of chapter 06's capstone: a learner's parameter, sampler and tests, and the strategy that then writes."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from folovllm.course.exercises import patterns
from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from folovllm.course.exercises.patterns import epsilon_solution
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput
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


_ALLOWED: tuple[Any, ...] = (0, 0.0, 0.02, 0.5, 0.999)
_REFUSED: tuple[Any, ...] = (-0.1, 1, 1.0, 1.5, math.nan, math.inf, "0.1", None)


def check_params(params_class: type[SamplingParams]) -> None:
    """Print what to make of a class of parameters with a checked field ``epsilon``."""
    print(f"the parameter: {_judge_params(params_class)}")


def _judge_params(params_class: Any) -> str:
    if not (isinstance(params_class, type) and issubclass(params_class, SamplingParams)):
        return f"not yet: give the class itself, a subclass of SamplingParams; got {params_class!r}"
    try:
        params_class()
    except NotImplementedError:
        return NOT_ATTEMPTED
    except Exception as error:
        return f"not yet: without arguments it must be made, with epsilon 0; it raises {_named(error)}"
    return (
        _own_problem(params_class)
        or _kept_problem(params_class)
        or f"✔ right: it takes {len(_ALLOWED)} values, refuses {len(_REFUSED)}, and checks the other fields as before"
    )


def _own_problem(params_class: Any) -> str:
    """Say what is wrong with the field itself; "" if nothing."""
    if getattr(params_class(), "epsilon", None) != 0:
        return "not yet: the field epsilon must be 0 when nobody sets it"
    for value in _ALLOWED:
        try:
            stored = params_class(epsilon=value).epsilon
        except Exception as error:
            return f"not yet: epsilon={value!r} is allowed, and is refused with {_named(error)}"
        if stored != value:
            return f"not yet: epsilon={value!r} is stored as {stored!r}"
    for value in _REFUSED:
        try:
            params_class(epsilon=value)
        except ValueError as error:
            if "epsilon" not in str(error) or str(value) not in str(error):
                return f"not yet: epsilon={value!r} is refused, but the message names not both field and value: {error}"
        except Exception as error:
            return f"not yet: epsilon={value!r} must be refused with a ValueError, not with {_named(error)}"
        else:
            return f"not yet: epsilon={value!r} is accepted; what would a draw make of it?"
    return ""


def _kept_problem(params_class: Any) -> str:
    """Say what of SamplingParams got lost; "" if nothing."""
    for name, value in {"temperature": -1.0, "top_p": 0.0, "stop": [""]}.items():
        try:
            params_class(**{name: value})
        except ValueError:
            continue
        return f"not yet: {name}={value!r} is accepted; SamplingParams' own checks run in super().__post_init__()"
    return "" if params_class(epsilon=0.02).clone().epsilon == 0.02 else "not yet: clone() loses the epsilon"


# -- the place ---------------------------------------------------------------------------------------------


_PROMPT = "The best thing about summer is"
_EPSILONS = (0.1, 0.02)
_OTHERS = (
    SamplingParams(seed=3, max_tokens=24, ignore_eos=True, logprobs=0),
    SamplingParams(temperature=0, max_tokens=24),
)


def check_strategy(llm: LLM, sampler: Sampler, params_class: type[SamplingParams]) -> None:
    """Generate with a sampler in the engine's place, and print what to make of it.

    params_class: SamplingParams with a field ``epsilon``. Requests with and without it share a batch.
    The engine has its own sampler back afterwards.
    """
    print(f"epsilon in the engine: {_judge(llm, sampler, params_class)}")


def _judge(llm: LLM, sampler: Sampler, params_class: type[SamplingParams]) -> str:
    try:
        given = _run(llm, sampler, params_class)
    except NotImplementedError:
        return NOT_ATTEMPTED
    except Exception as error:
        if "has no attribute 'epsilon'" in str(error):
            return "not yet: other people's requests have no epsilon; getattr(each, 'epsilon', 0.0) gives them 0"
        return f"not yet: the engine stopped with {_named(error)}"
    expected = _run(llm, ReferenceSampler(), ReferenceParams)
    for epsilon, completion in zip(_EPSILONS, given, strict=False):
        least = min(_probabilities_beside_the_likeliest(completion))
        if least < epsilon * 0.999:
            return f"not yet: with epsilon={epsilon} a token of probability {least:.4f} was drawn"
    tokens, wanted = ([completion.token_ids for completion in run] for run in (given, expected))
    if tokens[len(_EPSILONS) :] != wanted[len(_EPSILONS) :]:
        return "not yet: requests that do not ask for epsilon got other tokens than without your sampler"
    if tokens != wanted:
        return "not yet: no token was too unlikely, but they are not the reference's; do you drop too much?"
    told = ", ".join(
        f"{min(_probabilities_beside_the_likeliest(completion)):.2g} with epsilon={epsilon}"
        for epsilon, completion in zip((*_EPSILONS, 0), given, strict=False)
    )
    return f"✔ right, in a batch of {len(given)}; the least probable draw, first choices apart: {told}"


def _run(llm: LLM, sampler: Sampler, params_class: type[SamplingParams]) -> list[CompletionOutput]:
    """Return the completions of one batch: two with epsilon, one drawn without, one greedy."""
    asking = [
        params_class(epsilon=epsilon, seed=seed, max_tokens=24, ignore_eos=True, logprobs=0)  # type: ignore[call-arg]
        for seed, epsilon in enumerate(_EPSILONS)
    ]
    others = [params.clone() for params in _OTHERS]
    engine = llm.llm_engine
    own, engine.sampler = engine.sampler, sampler
    try:
        outputs = llm.generate([_PROMPT] * (len(asking) + len(others)), [*asking, *others], use_tqdm=False)
    finally:
        engine.sampler = own
    return [output.outputs[0] for output in outputs]


def _probabilities_beside_the_likeliest(completion: CompletionOutput) -> list[float]:
    """Return how probable each token was that was not the likeliest; 1.0 at the end, so that it is never empty."""
    assert completion.logprobs is not None, "the check asks for log-probabilities"
    own = [entry[token_id] for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True)]
    return [math.exp(each.logprob) for each in own if each.rank != 1] + [1.0]


# -- the tests ---------------------------------------------------------------------------------------------


def _in_float64(logits: Tensor, epsilon: Tensor) -> Tensor:
    """Epsilon sampling by another road: right as well, so that tests may not demand the reference's steps."""
    wide = logits.double()
    logprobs = wide - wide.logsumexp(dim=-1, keepdim=True)
    keeps = (logprobs >= epsilon.double().log()[:, None]) | (wide == wide.amax(dim=-1, keepdim=True))
    return torch.where(keeps, logits, -torch.inf)


_RIGHT: tuple[Strategy, ...] = (epsilon_solution, _in_float64)
WRONG_STRATEGIES: dict[str, Strategy] = {
    "keeps every token": patterns.keeps_everything,
    "sets dropped tokens to 0": patterns.writes_zeros,
    "returns probabilities": patterns.returns_probabilities,
    "compares the logit itself": patterns.compares_logits,
    "compares exp(logit)": patterns.does_not_normalise,
    "drops all where none reaches epsilon": patterns.drops_them_all,
    "is min-p": patterns.is_min_p,
    "uses the first row's epsilon for all": patterns.has_one_epsilon,
    "keeps only the best of the whole batch": patterns.keeps_the_best_of_the_batch,
    "runs the softmax over the batch": patterns.takes_columns_for_rows,
    "rounds to two decimals": patterns.rounds,
    "changes the caller's logits": patterns.changes_its_argument,
}
"""What a learner's tests must find out, by what each does."""


def check_tests(tests: Callable[[Strategy], Any]) -> None:
    """Run a learner's tests on right and on wrong strategies, and print which wrong ones slip through.

    tests: takes a strategy and raises, by ``assert``, if that is wrong.
    """
    print(f"your tests: {_judge_tests(tests)}")


def _judge_tests(tests: Callable[[Strategy], Any]) -> str:
    for strategy in _RIGHT:
        error = _complaint(tests, strategy)
        if isinstance(error, NotImplementedError):
            return NOT_ATTEMPTED
        if error is not None:
            return f"not yet: they reject a strategy that is right, with {_named(error)}"
    slipped = [title for title, strategy in WRONG_STRATEGIES.items() if _complaint(tests, strategy) is None]
    num_wrong = len(WRONG_STRATEGIES)
    if not slipped:
        return f"✔ they accept what is right and catch all {num_wrong} wrong strategies"
    told = "; ".join(f"one that {title}" for title in slipped[:3])
    more = f"; and {len(slipped) - 3} more" if len(slipped) > 3 else ""
    return f"they catch {num_wrong - len(slipped)} of {num_wrong} wrong strategies.\nSlipped through: {told}{more}"


def _complaint(tests: Callable[[Strategy], Any], strategy: Strategy) -> Exception | None:
    """Return what the tests raise for a strategy; None if they are content."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tests(strategy)
    except Exception as error:
        return error
    return None


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
        "the function": exercise.judge(function)[0],
        "the parameter": _judge_params(params_class).startswith("✔"),
    }
    if all(verdicts.values()):
        verdicts["the sampler"] = _judge(llm, sampler, params_class).startswith("✔")
    missing = [part for part, is_right in verdicts.items() if not is_right]
    if missing:
        print(f"the course's strategy writes; yours will when it is right: {', '.join(missing)}")
        return Capstone(epsilon_solution, ReferenceSampler(), ReferenceParams)
    print("your own strategy writes")
    return Capstone(function, sampler, params_class)


def _named(error: Exception) -> str:
    told = str(error).strip().splitlines()
    return f"{type(error).__name__}: {told[0]}" if told else type(error).__name__
