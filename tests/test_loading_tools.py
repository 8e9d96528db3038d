"""What chapters 04 and 04b show beside the widget: block formats, a GGUF file, bits, rounding; and their solutions."""

import logging

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers import logging as transformers_logging

from folovllm.course.exercises.loading.flat_batch import flat_batch_solution
from folovllm.course.exercises.loading.position_ids import position_ids_solution
from folovllm.course.exercises.loading.read_tensor import read_tensor_solution
from folovllm.course.exercises.numbers.q8_0 import q8_0_solution
from folovllm.course.exercises.numbers.rms_norm import rms_norm_solution
from folovllm.course.exercises.numbers.round_bits import round_bits_solution
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
    rounding_error,
)
from folovllm.course.gguf_file import quantize_and_back, quantize_weights, write_gguf
from folovllm.course.number_bits import bits_of
from folovllm.course.silence import quiet
from folovllm.course.widgets.padding_explorer import PaddingExplorer
from tests.tiny_models import tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer


def test_q8_0_is_a_scale_and_whole_numbers_for_every_32_weights():
    weights = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    expected = torch.empty_like(weights)
    for row in range(3):
        for start in (0, 32):
            block = weights[row, start : start + 32].numpy()
            scale = np.abs(block).max() / 127
            expected[row, start : start + 32] = torch.tensor(
                [float(round(float(x / scale))) * float(np.float16(scale)) for x in block]
            )
    assert torch.allclose(quantize_and_back(weights, "Q8_0"), expected, atol=1e-6)


def test_four_bits_leave_at_most_16_values_a_block():
    weights = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    for kind in ("Q4_0", "Q4_1"):
        assert max(len(row.unique()) for row in quantize_and_back(weights, kind)) <= 16


@pytest.mark.parametrize("shape", [(32,), (3, 64), (2, 5, 96), (512, 96)])
@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
def test_a_tensor_of_any_shape_comes_back_as_gguf_gives_it_row_by_row(kind, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    back = quantize_and_back(values, kind)
    assert back.shape == values.shape
    for row, kept in zip(values.reshape(-1, shape[-1]), back.reshape(-1, shape[-1]), strict=True):
        block_type = gguf.GGMLQuantizationType[kind]
        blocks = gguf.quants.quantize(row[None].numpy(), block_type)
        assert (gguf.quants.dequantize(blocks, block_type) == kept.numpy()).all()


def test_columns_that_are_no_whole_blocks_are_refused_however_many_values_there_are():
    with pytest.raises(gguf.QuantError, match=r"\(4, 40\)"):
        quantize_and_back(torch.zeros(4, 40), "Q8_0")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.filterwarnings("error")
def test_a_block_below_the_smallest_scale_is_zeros(kind):
    assert not quantize_and_back(1e-37 * torch.linspace(-1, 1, 32), kind).any()


def test_quantize_weights_changes_matrices_and_not_vectors():
    model, original = tiny_model(), tiny_model()
    quantize_weights(model, "Q4_0")
    for (name, new), old in zip(model.named_parameters(), original.parameters(), strict=True):
        assert torch.equal(new, old) == (old.dim() == 1), name


def tiny_llama() -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@torch.inference_mode()
def test_transformers_reads_the_gguf_file_as_the_same_model(tmp_path, capsys):
    model = tiny_llama()
    write_gguf(model, tmp_path / "tiny.gguf", "Q8_0")
    with quiet():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    assert capsys.readouterr().err == ""
    quantize_weights(model, "Q8_0")
    theirs = dict(loaded.named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(theirs[name], weight), name
    ids = torch.arange(20)[None]
    assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float16, 11), (torch.bfloat16, 8), (torch.float32, 24)])
def test_the_rounding_error_is_half_a_step_of_the_mantissa(dtype, bits):
    [error] = rounding_error(dtype, np.array([1.0]))
    assert 0.9 * 2.0**-bits < error <= 2.0**-bits


def test_float16_ends_above_65504_and_loses_precision_below():
    errors = rounding_error(torch.float16, 2.0 ** np.array([-30, -20, 0, 15, 16]))
    assert errors[0] == 1
    assert errors[1] > 10 * errors[2]
    assert errors[2] == pytest.approx(errors[3])
    assert np.isinf(errors[4])
    assert np.isfinite(rounding_error(torch.bfloat16, np.array([2.0**16]))).all()


def test_bits_are_sign_exponent_mantissa():
    assert bits_of(-2.0, "float32") == "1" + "10000000" + 23 * "0"
    assert bits_of(257.0, "bfloat16") == "0" + "10000111" + "0000000"
    assert bits_of(257.0, "float16") == "0" + "10111" + "0000000100"
    assert bits_of(70000.0, "float16") == "0" + "11111" + "0000000000"


PROMPTS = ("dog", "Once upon a time")


def test_the_figures_of_padding_say_in_words_what_they_show():
    model, tokenizer = tiny_model(), byte_level_tokenizer()
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    alt = plot_padding(PaddingExplorer(model, tokenizer, PROMPTS)).alt
    assert "the loaded model (rotary positions): none to speak of, none to speak of, large, large." in alt
    assert "tiny GPT-2 (learned positions): large, none to speak of, large, large." in alt
    assert f"Prompts of {lengths[0]}, {lengths[1]} tokens" in plot_sides(tokenizer, PROMPTS).alt
    assert f"{sum(lengths)} tokens in one row" in plot_flat_batch(tokenizer, PROMPTS).alt
    assert "100 columns" in plot_waste([100, 4, 6]).alt
    assert "37 % of 300 cells are tokens. Below, the same in one row: 110." in plot_waste([100, 4, 6]).alt


def test_the_figures_of_files_say_in_words_what_they_show(tmp_path):
    names = ("config", "generation_config", "tokenizer", "tokenizer_config")
    for name in (*(f"{each}.json" for each in names), "model.safetensors", "chat_template.jinja"):
        (tmp_path / name).write_bytes(bytes(300))
    assert "config.json, 300 bytes: which class" in plot_folder(tmp_path).alt
    save_file({"a.weight": torch.zeros(4), "b.bias": torch.zeros(2, 3)}, tmp_path / "two.safetensors")
    assert "then 40 bytes of numbers, 2 tensors" in plot_safetensors(tmp_path / "two.safetensors").alt
    assert (
        "short: 512, by the notes' rule 2,048; long: 4,096, by the notes' rule 8,192."
        in plot_limits({"short": ({"n_positions": 512}, None), "long": ({"max_position_embeddings": 8192}, 4096)}).alt
    )
    assert "the weights: missing, or of another shape" in plot_factory().alt
    assert "Chen's folder ends at the first one: it needs its own code." in plot_factory().alt


def test_the_figures_of_numbers_say_in_words_what_they_show():
    model, tokenizer = tiny_model(), byte_level_tokenizer()
    assert "hidden states reach" in plot_rounding(model, tokenizer, "dog").alt
    assert "bfloat16 0 10000111 0000000 = 256" in plot_bits(257.0).alt
    assert plot_errors({"all": 0.5, "every operation": 0.25}).alt == "all: off by 0.50; every operation: off by 0.25."
    logits = torch.full((300,), -1.0)
    logits[[65, 66]] = torch.tensor([9.02, 9.01])
    assert "9.020 becomes 9.0000; `: 9.010 becomes 9.0000" in plot_near_tie(logits, tokenizer).alt
    block = torch.linspace(-1, 1, 32)
    assert "same: 32 different values, largest error 0.0000" in plot_quantised({"same": (block, block)}).alt
    assert plot_sizes({"float32": 538.1, "half": 269}).alt == "float32: 538 MB; half: 269 MB."


def test_quiet_puts_back_what_it_found_even_after_an_error():
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    seen = []

    def fail():
        seen.append((transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()))
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), quiet():
        fail()
    assert seen == [(logging.ERROR, False)]
    assert transformers_logging.get_verbosity() == verbosity
    assert transformers_logging.is_progress_bar_enabled() == bars


def test_position_ids_equal_a_plain_count():
    mask = (torch.arange(9) >= torch.tensor([[0], [3], [8]])).long()
    expected = [[sum(row[:column]) if bit else 0 for column, bit in enumerate(row)] for row in mask.tolist()]
    assert position_ids_solution(mask).tolist() == expected


def test_a_tensor_is_what_was_saved():
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1.5]).bfloat16()}
    for name, tensor in tensors.items():
        assert torch.equal(read_tensor_solution(save(tensors), name), tensor)


def test_a_flat_batch_holds_what_is_new_of_each_text_with_its_place():
    assert flat_batch_solution([[7, 8, 9], [5, 6, 4, 3]], [2, 0]) == ([9, 5, 6, 4, 3], [2, 0, 1, 2, 3], [0, 4])


@pytest.mark.parametrize("number", [0.0, -0.0, 1.0, 257.0, 259.0, -3.4e38, 1e-40, float("inf")])
def test_rounded_bits_are_those_of_pytorchs_bfloat16(number):
    bits = int(bits_of(number, "float32"), 2)
    assert f"{round_bits_solution(bits):016b}" == bits_of(number, "bfloat16")


def test_rms_norm_divides_by_the_root_of_the_mean_square():
    x = torch.tensor([[20000.0, 0.0], [3.0, 4.0]]).half()
    expected = [[20000 / 2e8**0.5, 0], [3 / 12.5**0.5, 4 / 12.5**0.5]]
    assert torch.allclose(rms_norm_solution(x), torch.tensor(expected), atol=1e-5)


def test_q8_0_leaves_zeros_alone():
    assert not q8_0_solution(torch.zeros(2, 64)).any()


def test_a_model_on_a_card_is_written_and_quantized_as_one_on_the_cpu(device, tmp_path):
    files = []
    for where in ("cpu", device):
        model = tiny_model().to(where)
        write_gguf(model, tmp_path / where, "Q8_0")
        quantize_weights(model, "Q4_0")
        files.append(((tmp_path / where).read_bytes(), model.lm_head.weight.cpu()))
    (on_cpu, weights), (on_card, quantized) = files
    assert on_cpu == on_card
    assert torch.equal(weights, quantized)
