"""All that the notebooks import from ``folovllm.course``: widgets, figures, checks, over the engine's own functions."""

from folovllm.course.costs import seconds
from folovllm.course.distribution import make_distribution
from folovllm.course.environment import print_environment
from folovllm.course.exercises.checks import check
from folovllm.course.exercises.data_flow.comparison import compare_with_engine
from folovllm.course.exercises.patterns.capstone import finished_capstone
from folovllm.course.exercises.patterns.params_check import check_params
from folovllm.course.exercises.patterns.strategy_check import check_strategy
from folovllm.course.exercises.patterns.tests_check import check_tests
from folovllm.course.figures.beams import plot_beams, plot_race
from folovllm.course.figures.config import plot_config_layers
from folovllm.course.figures.data_flow import (
    plot_cache,
    plot_data_flow,
    plot_probabilities,
    plot_seats,
    plot_step_parts,
    plot_tokens_per_step,
    steps_waited,
    stream_table,
    time_steps,
    time_with_and_without_cache,
)
from folovllm.course.figures.kv_blocks import plot_keys_and_values, plot_kv_use, plot_shared_blocks
from folovllm.course.figures.loading import (
    plot_factory,
    plot_flat_batch,
    plot_folder,
    plot_limits,
    plot_padding,
    plot_safetensors,
    plot_sides,
    plot_waste,
)
from folovllm.course.figures.numbers import (
    plot_bits,
    plot_errors,
    plot_near_tie,
    plot_quantised,
    plot_rounding,
    plot_sizes,
)
from folovllm.course.figures.patterns import (
    plot_cut,
    plot_lantern,
    plot_memory_growth,
    plot_move,
    plot_patterns,
    plot_place,
)
from folovllm.course.figures.sampling import (
    plot_draw,
    plot_filters,
    plot_kept,
    plot_penalties,
    plot_repetition,
    plot_stop,
)
from folovllm.course.figures.sequences import plot_block_tables, plot_request
from folovllm.course.figures.start import plot_reading, show_tokens
from folovllm.course.figures.states import plot_states
from folovllm.course.figures.waits import plot_step_times, plot_turns
from folovllm.course.gguf_file import quantize_and_back, quantize_weights, write_gguf
from folovllm.course.move import answer_of_to_vllm, recorded_move
from folovllm.course.padded_batch import PADDING_PROMPTS, make_tiny_gpt2
from folovllm.course.python_code import has_function
from folovllm.course.silence import quiet
from folovllm.course.widgets.kv_budget import KVBudget
from folovllm.course.widgets.number_bits import NumberBits
from folovllm.course.widgets.padding_explorer import PaddingExplorer
from folovllm.course.widgets.predict import predict
from folovllm.course.widgets.prompt_box import PromptBox
from folovllm.course.widgets.sampling_explorer import SamplingExplorer
from folovllm.course.widgets.step_debugger import StepDebugger
from folovllm.course.widgets.timeline import Timeline, plot_timeline
from folovllm.course.widgets.token_colours import TokenColours
from folovllm.language import use_language

__all__ = [
    "PADDING_PROMPTS",
    "KVBudget",
    "NumberBits",
    "PaddingExplorer",
    "PromptBox",
    "SamplingExplorer",
    "StepDebugger",
    "Timeline",
    "TokenColours",
    "answer_of_to_vllm",
    "check",
    "check_params",
    "check_strategy",
    "check_tests",
    "compare_with_engine",
    "finished_capstone",
    "has_function",
    "make_distribution",
    "make_tiny_gpt2",
    "plot_beams",
    "plot_bits",
    "plot_block_tables",
    "plot_cache",
    "plot_config_layers",
    "plot_cut",
    "plot_data_flow",
    "plot_draw",
    "plot_errors",
    "plot_factory",
    "plot_filters",
    "plot_flat_batch",
    "plot_folder",
    "plot_kept",
    "plot_keys_and_values",
    "plot_kv_use",
    "plot_lantern",
    "plot_limits",
    "plot_memory_growth",
    "plot_move",
    "plot_near_tie",
    "plot_padding",
    "plot_patterns",
    "plot_penalties",
    "plot_place",
    "plot_probabilities",
    "plot_quantised",
    "plot_race",
    "plot_reading",
    "plot_repetition",
    "plot_request",
    "plot_rounding",
    "plot_safetensors",
    "plot_seats",
    "plot_shared_blocks",
    "plot_sides",
    "plot_sizes",
    "plot_states",
    "plot_step_parts",
    "plot_step_times",
    "plot_stop",
    "plot_timeline",
    "plot_tokens_per_step",
    "plot_turns",
    "plot_waste",
    "predict",
    "print_environment",
    "quantize_and_back",
    "quantize_weights",
    "quiet",
    "recorded_move",
    "seconds",
    "show_tokens",
    "steps_waited",
    "stream_table",
    "time_steps",
    "time_with_and_without_cache",
    "use_language",
    "write_gguf",
]
