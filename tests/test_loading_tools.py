"""What chapter 04 shows beside its widget: block formats, a GGUF file, rounding errors, silence; and its solutions."""

import logging

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers import logging as transformers_logging

from folovllm.course.exercises.loading import max_length_solution, position_ids_solution
from folovllm.course.figures.loading import plot_padding, plot_rounding, rounding_error
from folovllm.course.gguf_file import quantize_and_back, quantize_weights, write_gguf
from folovllm.course.quiet import quiet
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
    errors = rounding_error(torch.float16, 2.0 ** np.array([-30, -20, 0, 16]))
    assert errors[0] == 1
    assert errors[1] > 10 * errors[2]
    assert np.isinf(errors[3])
    assert np.isfinite(rounding_error(torch.bfloat16, np.array([2.0**16]))).all()


def test_the_figures_say_in_words_what_they_show():
    model, tokenizer = tiny_model(), byte_level_tokenizer()
    assert "hidden states reach" in plot_rounding(model, tokenizer, "dog").alt
    alt = plot_padding(PaddingExplorer(model, tokenizer, ("dog", "Once upon a time"))).alt
    assert "llama (rotary positions): none to speak of, none to speak of, large, large." in alt
    assert "gpt2 (learned positions): large, none to speak of, large, large." in alt


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


def test_max_length_of_an_unlimited_model_comes_without_a_warning(recwarn):
    assert max_length_solution({}, 10**30) == 2048
    assert not recwarn.list
