"""What the notebooks show: widgets and figures over the engine's own functions. The engine never imports it."""

from folovllm.course.checks import check
from folovllm.course.costs import bytes_of, seconds
from folovllm.course.distribution import make_distribution
from folovllm.course.engine_figures import plot_kv_use, plot_steps, plot_stream
from folovllm.course.environment import print_environment
from folovllm.course.gguf_file import quantize_and_back, quantize_weights, write_gguf
from folovllm.course.kv_budget import KVBudget
from folovllm.course.loading_figures import plot_padding, plot_rounding
from folovllm.course.padded_batch import PADDING_PROMPTS, make_tiny_gpt2
from folovllm.course.padding_explorer import PaddingExplorer
from folovllm.course.pattern_figures import plot_growth, plot_records
from folovllm.course.prompt_box import PromptBox
from folovllm.course.quiet import quiet
from folovllm.course.sampling_explorer import SamplingExplorer
from folovllm.course.sampling_figures import plot_entropy, plot_kept, plot_temperatures
from folovllm.course.sequence_figures import plot_beams, plot_states
from folovllm.course.strategy_check import check_strategy
from folovllm.course.timeline import Timeline, plot_timeline

__all__ = [
    "PADDING_PROMPTS",
    "KVBudget",
    "PaddingExplorer",
    "PromptBox",
    "SamplingExplorer",
    "Timeline",
    "bytes_of",
    "check",
    "check_strategy",
    "make_distribution",
    "make_tiny_gpt2",
    "plot_beams",
    "plot_entropy",
    "plot_growth",
    "plot_kept",
    "plot_kv_use",
    "plot_padding",
    "plot_records",
    "plot_rounding",
    "plot_states",
    "plot_steps",
    "plot_stream",
    "plot_temperatures",
    "plot_timeline",
    "print_environment",
    "quantize_and_back",
    "quantize_weights",
    "quiet",
    "seconds",
    "write_gguf",
]
