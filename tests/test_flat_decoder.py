"""Which models the engine's own forward pass takes; that it is right is tested against HuggingFace (test_parity_*)."""

import pytest
import torch
from transformers import LlamaForCausalLM

from folovllm import SamplingParams
from folovllm.engine.flat_decoder import _RMSNorm, _rotate, why_not_flat
from tests.tiny_models import FAMILIES, FLAT_FAMILIES, VOCAB_SIZE, hf_greedy, tiny_config, tiny_llm, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_it_takes_the_llama_family_and_names_what_else_it_is_given(family):
    model = tiny_model(family)
    reason = why_not_flat(model)
    assert (reason is None) == (family in FLAT_FAMILIES)
    if reason is not None:
        assert type(model).__name__ in reason
        with pytest.raises(ValueError, match=rf"model_impl='folovllm' cannot run this model: {type(model).__name__}"):
            tiny_llm(model, model_impl="folovllm")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_left_to_transformers(dtype):
    model = tiny_model().to(dtype)
    assert why_not_flat(model) == f"its dtype is {str(dtype)[6:]}, not float32"
    with pytest.raises(ValueError, match=r"not float32; 'auto' and 'transformers' can"):
        tiny_llm(model, model_impl="folovllm")


def test_a_class_of_ones_own_is_left_to_transformers():
    class Mine(LlamaForCausalLM):
        pass

    assert "Mine is none of" in why_not_flat(Mine(tiny_config()))


def test_a_model_with_other_linear_layers_is_left_to_transformers():
    class Quantized(torch.nn.Module):
        pass

    model = tiny_model()
    model.model.layers[1].mlp.up_proj = Quantized()
    assert why_not_flat(model) == "its linear layers are Linear, Quantized"


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_every_activation_gives_huggingfaces_tokens(activation):
    model = tiny_model("llama", hidden_act=activation)
    prompt = list(range(5, 45))
    params = SamplingParams(temperature=0, max_tokens=16)
    [output] = tiny_llm(model, model_impl="folovllm").generate({"prompt_token_ids": prompt}, params, use_tqdm=False)
    assert output.outputs[0].token_ids == hf_greedy(model, prompt, 16)


@pytest.mark.parametrize(
    "settings",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},
        {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2},
        {"hidden_size": 80, "num_attention_heads": 5, "num_key_value_heads": 1},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}},
    ],
    ids=str,
)
def test_every_shape_and_setting_gives_huggingfaces_tokens(settings):
    model = tiny_model("llama", **settings)
    prompts = [[(7 * i + j) % (VOCAB_SIZE - 3) + 3 for j in range(20 + i)] for i in range(5)]
    llm = tiny_llm(model, model_impl="folovllm", block_size=4)
    inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
    outputs = llm.generate(inputs, SamplingParams(temperature=0, max_tokens=12), use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == [hf_greedy(model, prompt, 12) for prompt in prompts]


def test_windows_of_some_layers_only_are_kept():
    layer_types = ["full_attention", "sliding_attention"]
    model = tiny_model("qwen3", use_sliding_window=True, sliding_window=8, layer_types=layer_types)
    prompt = list(range(5, 60))
    params = SamplingParams(temperature=0, max_tokens=12)
    [output] = tiny_llm(model, model_impl="folovllm").generate({"prompt_token_ids": prompt}, params, use_tqdm=False)
    assert output.outputs[0].token_ids == hf_greedy(model, prompt, 12)


@torch.inference_mode()
def test_the_norm_is_huggingfaces_also_for_tiny_and_huge_vectors():
    norm = tiny_model().model.norm
    torch.nn.init.normal_(norm.weight)
    for scale in (0.0, 1e-12, 1e-3, 1.0, 1e6):
        x = torch.randn(7, len(norm.weight)) * scale
        torch.testing.assert_close(_RMSNorm(norm)(x), norm(x), atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_the_rotation_turns_each_pair_by_its_angle():
    x, angles = torch.randn(4, 3, 8), torch.rand(4, 1, 4) * 6
    sin = torch.cat((-angles.sin(), angles.sin()), -1)
    rotated = _rotate(x, angles.cos().repeat(1, 1, 2), sin)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rotated, torch.cat((turned.real, turned.imag), -1))
