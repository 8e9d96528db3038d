"""What the notebooks show: widgets and figures over the engine's own functions. The engine never imports it."""

from folovllm.course.checks import check
from folovllm.course.distribution import make_distribution
from folovllm.course.environment import print_environment
from folovllm.course.prompt_box import PromptBox
from folovllm.course.sampling_explorer import SamplingExplorer
from folovllm.course.sampling_figures import plot_temperatures

__all__ = [
    "PromptBox",
    "SamplingExplorer",
    "check",
    "make_distribution",
    "plot_temperatures",
    "print_environment",
]
