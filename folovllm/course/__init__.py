"""What the notebooks show: widgets and figures over the engine's own functions. The engine never imports it."""

from folovllm.course.checks import check
from folovllm.course.distribution import make_distribution
from folovllm.course.engine_figures import plot_growth, plot_kv_use, plot_steps
from folovllm.course.environment import print_environment
from folovllm.course.kv_budget import KVBudget
from folovllm.course.prompt_box import PromptBox
from folovllm.course.sampling_explorer import SamplingExplorer
from folovllm.course.sampling_figures import plot_entropy, plot_kept, plot_temperatures
from folovllm.course.sequence_figures import plot_beams, plot_states
from folovllm.course.timeline import Timeline, plot_timeline

__all__ = [
    "KVBudget",
    "PromptBox",
    "SamplingExplorer",
    "Timeline",
    "check",
    "make_distribution",
    "plot_beams",
    "plot_entropy",
    "plot_growth",
    "plot_kept",
    "plot_kv_use",
    "plot_states",
    "plot_steps",
    "plot_temperatures",
    "plot_timeline",
    "print_environment",
]
