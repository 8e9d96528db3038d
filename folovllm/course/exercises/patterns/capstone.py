"""The capstone's reward: a learner's strategy writes if all of it is right, else the course's."""

from dataclasses import dataclass

from folovllm.course.exercises.patterns import epsilon
from folovllm.course.exercises.patterns.classes import ReferenceParams, ReferenceSampler
from folovllm.course.exercises.patterns.params_check import judge_params
from folovllm.course.exercises.patterns.strategies import Strategy, epsilon_solution
from folovllm.course.exercises.patterns.strategy_check import judge_strategy
from folovllm.language import N_, _, listed
from folovllm.llm import LLM
from folovllm.sampling.sampler import Sampler
from folovllm.sampling_params import SamplingParams


@dataclass(frozen=True)
class Capstone:
    """A strategy that works: its function, the sampler that calls it, and the class of its parameters."""

    function: Strategy
    sampler: Sampler
    params_class: type[SamplingParams]


def finished_capstone(llm: LLM, function: Strategy, sampler: Sampler, params_class: type[SamplingParams]) -> Capstone:
    """Return the learner's strategy if all of it is right, else the course's, and print which."""
    verdicts = {
        N_("the function"): epsilon.EXERCISE.judge(function)[0],
        N_("the parameter"): judge_params(params_class).startswith("✔"),
        N_("the place"): judge_strategy(llm, sampler, params_class).startswith("✔"),
    }
    missing = [part for part, is_right in verdicts.items() if not is_right]
    if missing:
        print(_("The course's strategy writes. Still to do: {missing}.").format(missing=listed(map(_, missing))))
        return Capstone(epsilon_solution, ReferenceSampler(), ReferenceParams)
    print(_("your own strategy writes"))
    return Capstone(function, sampler, params_class)
