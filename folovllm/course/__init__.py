"""What the notebooks show: widgets and figures over the engine's own functions. The engine never imports it."""

from folovllm.course.costs import bytes_of, seconds
from folovllm.course.distribution import make_distribution
from folovllm.course.environment import print_environment
from folovllm.course.exercises.checks import check
from folovllm.course.exercises.data_flow import compare_with_engine
from folovllm.course.exercises.strategy_check import check_strategy
from folovllm.course.figures.data_flow import (
    plot_cache,
    plot_data_flow,
    plot_probabilities,
    plot_seats,
    plot_step_parts,
    plot_tokens_per_step,
    stream_table,
    time_decode,
    time_prefill,
    time_with_and_without_cache,
)
from folovllm.course.figures.engine import plot_kv_use, plot_steps, plot_stream
from folovllm.course.figures.loading import plot_padding, plot_rounding
from folovllm.course.figures.patterns import plot_growth, plot_records
from folovllm.course.figures.sampling import plot_entropy, plot_kept, plot_temperatures
from folovllm.course.figures.sequences import plot_beams, plot_states
from folovllm.course.gguf_file import quantize_and_back, quantize_weights, write_gguf
from folovllm.course.padded_batch import PADDING_PROMPTS, make_tiny_gpt2
from folovllm.course.quiet import quiet
from folovllm.course.widgets.kv_budget import KVBudget
from folovllm.course.widgets.padding_explorer import PaddingExplorer
from folovllm.course.widgets.predict import predict
from folovllm.course.widgets.prompt_box import PromptBox
from folovllm.course.widgets.sampling_explorer import SamplingExplorer
from folovllm.course.widgets.step_debugger import StepDebugger
from folovllm.course.widgets.timeline import Timeline, plot_timeline
from folovllm.course.widgets.token_colours import TokenColours

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
    "plot_data_flow",
    "plot_entropy",
    "plot_growth",
    "plot_kept",
    "plot_kv_use",
    "plot_padding",
    "plot_probabilities",
    "plot_records",
    "plot_rounding",
    "plot_seats",
    "plot_states",
    "plot_step_parts",
    "plot_steps",
    "plot_stream",
    "plot_temperatures",
    "plot_timeline",
    "plot_tokens_per_step",
    "predict",
    "print_environment",
    "quantize_and_back",
    "quantize_weights",
    "quiet",
    "seconds",
    "stream_table",
    "time_decode",
    "time_prefill",
    "time_with_and_without_cache",
    "write_gguf",
]
