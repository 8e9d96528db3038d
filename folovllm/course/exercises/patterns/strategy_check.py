"""``check_strategy``: a learner's sampler in the engine's place, with batches that tell its rows apart."""

import re
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from folovllm.course.exercises.patterns.named_error import named
from folovllm.course.exercises.patterns.params_check import no_class_problem
from folovllm.course.exercises.patterns.watched_sampler import WatchedSampler, refine_in_time
from folovllm.course.exercises.time_limit import SECONDS, TimeIsUp, call_in_time
from folovllm.language import N_, _, listed
from folovllm.llm import LLM
from folovllm.sampling.sampler import Sampler
from folovllm.sampling_params import SamplingParams

_PROMPT, _OTHER_PROMPT = "The best thing about summer is", "The capital of France is"
_EPSILONS = (0.1, 0.02, 0.3, 0.005, 0.6)
_NUM_TOKENS = 8
_REQUESTS: tuple[tuple[bool, dict[str, Any]], ...] = (
    (True, {"seed": 0}),
    (True, {"seed": 1}),
    (True, {"temperature": 0.5}),
    (False, {"temperature": 0.5}),
    (True, {"top_k": 20}),
    (True, {"temperature": 1.5, "seed": 4}),
    (True, {"repetition_penalty": 1.1, "presence_penalty": 0.5, "seed": 5}),
    (True, {"logprobs": 2, "seed": 6}),
    (True, {"stop": ["never written"], "stop_token_ids": [5], "min_tokens": 4, "seed": 7}),
    (True, {"top_p": 0.9, "min_p": 0.01, "seed": 2}),
    (False, {"top_k": 2, "seed": 3}),
    (False, {"temperature": 0}),
)
"""Whether a request has an epsilon, and its other settings. The greedy one never meets a sampler's ``refine``."""


def check_strategy(llm: LLM, sampler: Sampler, params_class: type[SamplingParams]) -> None:
    """Generate with a sampler in the engine's place, and print what to make of it.

    params_class: SamplingParams with a field ``epsilon``. The engine has its own sampler back afterwards.
    """
    print(_("epsilon in the engine: {verdict}").format(verdict=judge_strategy(llm, sampler, params_class)))


def judge_strategy(llm: LLM, sampler: Sampler, params_class: type[SamplingParams]) -> str:
    """Say what to make of a sampler in the engine's place; it begins with ✔ if that is right."""
    if not isinstance(sampler, Sampler):
        return _("not yet: give an object of your class, MySampler(); got {sampler!r}").format(sampler=sampler)
    if problem := no_class_problem(params_class):
        return problem
    watched = WatchedSampler(sampler)
    try:
        for watched.found_in, prompts, requests in call_in_time(SECONDS, list, _batches(params_class)):
            _run(llm, watched, prompts, requests)
        problem = (
            watched.verdict
            or _problem_of_memory(sampler, params_class)  # first: new requests below may have an old one's id
            or _problem_of_settings(sampler, params_class)
            or _problem_of_families(sampler, params_class)
            or _problem_of_digits(sampler, params_class)
        )
        if not problem:  # the sampler itself, of which only refine was called so far
            _run(llm, sampler, *next(_batches(params_class))[1:])
    except NotImplementedError:
        return _("not attempted yet, or a part before it is not")
    except (Exception, SystemExit, TimeIsUp) as error:
        if late := watched.late or (error if isinstance(error, TimeIsUp) else None):
            return _("not yet: your code {late}").format(late=late)
        if "'SamplingParams' object has no attribute 'epsilon'" in str(error):
            return _("not yet: other people's requests have no epsilon; getattr(each, 'epsilon', 0.0) gives them 0")
        if re.search("must return logits of shape|must match the size", str(error)):
            return _("not yet: the engine stopped with {named}; `params` has one entry per row, whatever its n").format(
                named=named(error)
            )
        return _("not yet: the engine stopped with {named}").format(named=named(error))
    if problem:
        return _("not yet: {verdict}").format(verdict=problem)
    told = listed(
        _("{least:.2g} with epsilon={epsilon}").format(least=least, epsilon=epsilon)
        for epsilon, least in sorted(watched.least.items())
        if epsilon
    )
    return _(
        "✔ right, in batches of 1 to {num_requests}; the least probable token kept beside the likeliest: {told}"
    ).format(num_requests=len(_REQUESTS), told=told)


def _problem_of_settings(sampler: Sampler, params_class: type[SamplingParams]) -> str:
    """Say what is wrong where a row's other settings are taken for an epsilon, or other rows of a call change."""
    found_in = N_("right until other rows or settings change; each row's epsilon counts, and nothing else: {found}")
    small, large = (params_class(epsilon=epsilon) for epsilon in (0.02, 0.3))  # type: ignore[call-arg]
    plain = SamplingParams(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, presence_penalty=0.5)
    batches = ([plain], [small, plain], [plain, small], [large, small, plain], [large, large, plain])
    return _problem_of(sampler, found_in, [(torch.linspace(0, 5, 50).repeat(len(rows), 1), rows) for rows in batches])


def _problem_of_families(sampler: Sampler, params_class: type[SamplingParams]) -> str:
    """Say what is wrong where other rows follow those of a request with two texts, or one of its texts has ended."""
    found_in = N_("right until another row follows n=2; `params` has one entry per row, whatever its n: {found}")
    of_two, other = (params_class(epsilon=epsilon, n=n) for epsilon, n in ((0.3, 2), (0.02, 1)))  # type: ignore[call-arg]
    plain = SamplingParams()
    batches = ([of_two], [of_two, other, plain], [other, of_two, plain], [of_two, of_two, other, plain])
    return _problem_of(sampler, found_in, [(torch.linspace(0, 5, 50).repeat(len(rows), 1), rows) for rows in batches])


def _problem_of_digits(sampler: Sampler, params_class: type[SamplingParams]) -> str:
    """Say what is wrong where an epsilon is large or tiny, or a token's probability lies just above or below it."""
    found_in = N_("right until an epsilon is large, or tiny, or needs all digits of a float32: {found}")
    epsilons = (0.1, 0.45, 3e-4, 1e-8, 1e-20)
    probs = torch.tensor([[1 - 2 * epsilon, epsilon * 0.9999, epsilon * 1.0001] for epsilon in epsilons])
    params = [params_class(epsilon=epsilon) for epsilon in epsilons]  # type: ignore[call-arg]
    return _problem_of(sampler, found_in, [(probs.log(), params)])


def _problem_of(sampler: Sampler, found_in: str, calls: list[tuple[Tensor, list[SamplingParams]]]) -> str:
    """Say what is wrong in calls of ``refine`` without an engine; "" if nothing."""
    watched = WatchedSampler(sampler)
    watched.found_in = found_in
    for logits, rows in calls:
        watched.refine(logits, rows)
    return watched.problem


def _problem_of_memory(sampler: Sampler, params_class: type[SamplingParams]) -> str:
    """Say so if an epsilon is not read anew where a request, or the list of them, has the ``id`` of one that has left.

    Python gives a new object the memory of one that is gone, sooner or later. Not to wait for that, one request and one
    list stand for all of them, and the epsilon changes although its class is frozen.
    """
    logits, rows, kept = torch.tensor([[2.0, 1.0, -3.0]]), [params_class()], []
    for epsilon in (0.9, 0.0):
        object.__setattr__(rows[0], "epsilon", epsilon)
        refined = refine_in_time(sampler, logits, rows)
        kept.append(int((refined > -torch.inf).sum()))
    if kept == [1, 3]:
        return ""
    return _("a request gets the epsilon of one that has left; remember nothing between two calls")


def _batches(params_class: type[SamplingParams]) -> Iterator[tuple[str, list[str], list[SamplingParams]]]:
    """Yield what to say of a fault, prompts and requests of three batches.

    The first two have requests with epsilon, some drawn without, one greedy. The second one turns their order round,
    and its first request is the first to end, so that each kind stands first, last and in the middle, and one with
    epsilon is left alone. It begins with as many rows as the first one ended with: that tells who remembers.
    In the third one two requests are equal, and two texts share one request's parameters.
    """
    lengths = range(_NUM_TOKENS, _NUM_TOKENS + len(_REQUESTS))
    prompts = [_PROMPT] * len(_REQUESTS)
    yield "{found}", prompts, _make(params_class, _EPSILONS, [_NUM_TOKENS] * len(_REQUESTS))
    turned = N_("right in the first batch; in another one, with fewer requests or in another order: {found}")
    yield turned, prompts, _make(params_class, _EPSILONS[::-1], lengths[::-1])[::-1]
    settings: dict[str, Any] = {"max_tokens": _NUM_TOKENS, "ignore_eos": True, "seed": 3}
    equal = [params_class(**settings, epsilon=0.02) for _ in range(2)]  # type: ignore[call-arg]
    of_two = params_class(**settings, epsilon=0.005, n=2)  # type: ignore[call-arg]
    twins = N_("right until two rows have equal parameters, as both texts of n=2 have; go by a row's place: {found}")
    yield twins, [_PROMPT, _OTHER_PROMPT, _PROMPT], [*equal, of_two]


def _make(
    params_class: type[SamplingParams], epsilons: Sequence[float], lengths: Sequence[int]
) -> list[SamplingParams]:
    epsilon, made = cycle(epsilons), list[SamplingParams]()
    for (has_epsilon, settings), length in zip(_REQUESTS, lengths, strict=True):
        asked = settings | {"max_tokens": length, "ignore_eos": True}
        made.append(params_class(**asked, epsilon=next(epsilon)) if has_epsilon else SamplingParams(**asked))  # type: ignore[call-arg]
    return made


def _run(llm: LLM, sampler: Sampler, prompts: list[str], requests: list[SamplingParams]) -> None:
    """Generate one batch with a sampler in the place of the engine's."""
    engine = llm.llm_engine
    own, engine.sampler = engine.sampler, sampler
    try:
        llm.generate(prompts, requests, use_tqdm=False)
    finally:
        engine.sampler = own
