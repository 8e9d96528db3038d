"""The second half of chapter 06's capstone: does a learner's strategy work in the engine, where it is asked for?"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from folovllm.course.exercises.patterns import epsilon_solution
from folovllm.llm import LLM
from folovllm.outputs import CompletionOutput
from folovllm.sampling.sampler import Sampler
from folovllm.sampling_params import SamplingParams

_PROMPT = "The best thing about summer is"
_EPSILONS = (0.1, 0.02)
_OTHERS = (
    SamplingParams(seed=3, max_tokens=24, ignore_eos=True, logprobs=0),
    SamplingParams(temperature=0, max_tokens=24),
)


@dataclass(frozen=True)
class _ReferenceParams(SamplingParams):
    epsilon: float = 0.0


class _ReferenceSampler(Sampler):
    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        epsilons = [getattr(each, "epsilon", 0.0) for each in params]
        return epsilon_solution(logits, torch.tensor(epsilons, device=logits.device))


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
        return f"the engine stopped with {type(error).__name__}: {error}"
    expected = _run(llm, _ReferenceSampler(), _ReferenceParams)
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
