"""What the notebooks show: widgets and figures over the engine's own functions. The engine never imports it."""

from folovllm.course.checks import check
from folovllm.course.costs import bytes_of, seconds
from folovllm.course.distribution import make_distribution
from folovllm.course.engine_figures import plot_kv_use, plot_steps, plot_stream
from folovllm.course.environment import print_environment
from folovllm.course.flow_exercises import compare_with_engine
from folovllm.course.flow_figures import (
    plot_cache,
    plot_probabilities,
    plot_steps_in_time,
    time_decode,
    time_prefill,
    time_with_and_without_cache,
)
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
from folovllm.course.step_debugger import StepDebugger
from folovllm.course.strategy_check import check_strategy
from folovllm.course.timeline import Timeline, plot_timeline
from folovllm.course.token_colours import TokenColours

__all__ = [
    "PADDING_PROMPTS",
    "KVBudget",
    "PaddingExplorer",
    "PromptBox",
    "SamplingExplorer",
    "StepDebugger",
    "Timeline",
    "TokenColours",
    "bytes_of",
    "check",
    "check_strategy",
    "compare_with_engine",
    "make_distribution",
    "make_tiny_gpt2",
    "plot_beams",
    "plot_cache",
    "plot_entropy",
    "plot_growth",
    "plot_kept",
    "plot_kv_use",
    "plot_padding",
    "plot_probabilities",
    "plot_records",
    "plot_rounding",
    "plot_states",
    "plot_steps",
    "plot_steps_in_time",
    "plot_stream",
    "plot_temperatures",
    "plot_timeline",
    "print_environment",
    "quantize_and_back",
    "quantize_weights",
    "quiet",
    "seconds",
    "time_decode",
    "time_prefill",
    "time_with_and_without_cache",
    "write_gguf",
]
