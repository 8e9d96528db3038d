"""Which models the engine's own forward pass takes; that it is right is tested against HuggingFace (test_parity_*)."""

import pytest
import torch
from transformers import LlamaForCausalLM

from folovllm import SamplingParams
from folovllm.models import decoder
from folovllm.models.decoder import why_not_flat
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
    assert why_not_flat(model) == "its model.layers.1.mlp.up_proj is of the class Quantized, not Linear"


def put_hook(module):
    module.register_forward_hook(lambda module, given, output: None)


def put_pre_hook(module):
    module.register_forward_pre_hook(lambda module, given: None)


def patch_forward(module):
    module.forward = lambda *given, inner=module.forward, **named: inner(*given, **named)


def make_subclass(module):
    module.__class__ = type("Mine", (type(module),), {})


@pytest.mark.parametrize("change", [put_hook, put_pre_hook, patch_forward, make_subclass])
def test_a_change_of_any_module_is_seen(change):
    for name, _ in tiny_model().named_modules():
        model = tiny_model()
        assert why_not_flat(model) is None
        change(model.get_submodule(name))
        assert (name or type(model).__name__) in why_not_flat(model)


def scale_by_a_hook(model):
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, output: -2 * output)


def turn_the_logits_around(model):
    model.lm_head.forward = lambda x, inner=model.lm_head.forward: -inner(x)


def normalize_weights(model):
    torch.nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.parametrizations.weight.original0.mul_(3)


def put_another_norm(model):
    model.model.norm = torch.nn.LayerNorm(64)
    torch.nn.init.normal_(model.model.norm.bias)


def replace_one_activation(model):
    model.model.layers[1].mlp.act_fn = torch.nn.ReLU()


def prune_one_layer(model):
    mlp = model.model.layers[1].mlp
    for name in ("gate_proj", "up_proj"):
        kept = torch.nn.Linear(64, 40, bias=False)
        kept.weight = torch.nn.Parameter(getattr(mlp, name).weight[:40].detach())
        setattr(mlp, name, kept)
    down = torch.nn.Linear(40, 64, bias=False)
    down.weight = torch.nn.Parameter(mlp.down_proj.weight[:, :40].detach().contiguous())
    mlp.down_proj = down


def give_one_layer_a_bias(model):
    model.model.layers[1].mlp.up_proj.bias = torch.nn.Parameter(torch.randn(96))


def limit_the_embeddings(model):
    model.model.embed_tokens.max_norm = 1.0


def patch_the_class(model):
    kind = type(model.model.layers[0].mlp)
    mine = type(kind.__name__, (kind,), {"forward": lambda self, x: -kind.forward(self, x)})
    mine.__module__ = kind.__module__
    model.model.layers[0].mlp.__class__ = mine


@pytest.mark.parametrize(
    "change",
    [
        scale_by_a_hook,
        turn_the_logits_around,
        normalize_weights,
        put_another_norm,
        replace_one_activation,
        patch_the_class,
        prune_one_layer,
        give_one_layer_a_bias,
        limit_the_embeddings,
    ],
)
@pytest.mark.parametrize("before", [True, False])
def test_a_changed_model_gives_huggingfaces_tokens_also_where_it_was_changed_between_two_llms(change, before):
    model = tiny_model()
    if not before:
        tiny_llm(model)
    change(model)
    prompt = list(range(5, 45))
    for model_impl in ("auto", "transformers"):
        llm = tiny_llm(model, model_impl=model_impl)
        [output] = llm.generate(
            {"prompt_token_ids": prompt}, SamplingParams(temperature=0, max_tokens=8), use_tqdm=False
        )
        assert output.outputs[0].token_ids == hf_greedy(model, prompt, 8)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_another_activation_is_left_to_transformers(activation):
    model = tiny_model("llama", hidden_act=activation)
    assert "not SiLU" in why_not_flat(model)
    prompt = list(range(5, 45))
    params = SamplingParams(temperature=0, max_tokens=16)
    [output] = tiny_llm(model).generate({"prompt_token_ids": prompt}, params, use_tqdm=False)
    assert output.outputs[0].token_ids == hf_greedy(model, prompt, 16)


def test_weights_that_do_not_lie_row_by_row_are_left_to_transformers():
    model = tiny_model()
    weight = model.model.layers[1].mlp.up_proj.weight
    model.model.layers[1].mlp.up_proj.weight = torch.nn.Parameter(weight.detach().T.contiguous().T)
    assert why_not_flat(model) == "its weights do not lie in memory row by row"


def test_without_numba_it_is_left_to_transformers(monkeypatch):
    monkeypatch.setattr(decoder, "why_no_kernels", lambda: "ImportError: no LLVM")
    model = tiny_model()
    with pytest.raises(ValueError, match=r"need numba, which cannot be used \(ImportError: no LLVM\); 'auto' and"):
        tiny_llm(model, model_impl="folovllm")
    llm = tiny_llm(model)
    assert not llm.is_batch_invariant
    prompt = list(range(5, 45))
    [output] = llm.generate({"prompt_token_ids": prompt}, SamplingParams(temperature=0), use_tqdm=False)
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


@pytest.mark.parametrize("model_impl", ["folovllm", "transformers"])
def test_pytorchs_defaults_for_new_tensors_change_nothing(model_impl):
    llm = tiny_llm(model_impl=model_impl)
    prompts = [{"prompt_token_ids": list(range(5, 5 + count))} for count in (3, 40)]
    params = [SamplingParams(temperature=0, max_tokens=8), SamplingParams(seed=1, top_p=0.9, logprobs=2, max_tokens=8)]

    def results():
        outputs = [output.outputs[0] for output in llm.generate(prompts, params, use_tqdm=False)]
        return [(each.token_ids, llm.is_batch_invariant and each.logprobs) for each in outputs]

    expected = results()
    with torch.device("meta"):
        assert results() == expected
    if model_impl == "folovllm":  # HuggingFace's own code makes tensors of the default dtype
        for dtype in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            try:
                assert results() == expected
            finally:
                torch.set_default_dtype(torch.float32)
