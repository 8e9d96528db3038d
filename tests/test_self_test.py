"""What a look at attention cannot show, a run beside HuggingFace's own attention does."""

import copy

import pytest
import torch
from transformers import masking_utils

from folovllm import SamplingParams
from folovllm.models import decoder, self_test
from folovllm.models.attention_notes import find_window
from folovllm.models.probe import UnsupportedModelError
from tests.small_families import small_config, small_model
from tests.tiny_models import FAMILIES, hf_greedy, tiny_llm, tiny_model

PROMPT = list(range(5, 45))
GREEDY = SamplingParams(temperature=0, max_tokens=8)


class Around(torch.nn.Module):
    """Runs a module, and changes what goes in or comes out."""

    def __init__(self, inner, before=None, after=None):
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, *given, **named):
        given = self.before(*given) if self.before else given
        output = self.inner(*given, **named)
        return self.after(output) if self.after else output


def with_token_shift(model):
    layer = model.model.layers[0]
    layer.mlp = Around(layer.mlp, after=lambda x: x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


def with_positions_of_its_own(model):
    def count(hidden, position_ids):
        return hidden, torch.arange(hidden.shape[1])[None]

    rotary = Around(model.model.rotary_emb)
    rotary.forward = lambda hidden, position_ids: rotary.inner(*count(hidden, position_ids))
    model.model.rotary_emb = rotary


def with_a_look_at_the_whole_row(model):
    layer = model.model.layers[1]
    layer.mlp = Around(layer.mlp, after=lambda x: x / x.abs().amax(dim=1, keepdim=True))


@pytest.mark.parametrize("change", [with_token_shift, with_positions_of_its_own, with_a_look_at_the_whole_row])
def test_tokens_that_reach_each_other_outside_attention_are_refused(change):
    model = tiny_model()
    change(model)
    with pytest.raises(UnsupportedModelError, match="tokens reach others by another way than attention"):
        tiny_llm(model, model_impl="transformers")


@pytest.mark.parametrize("num_hidden_layers", [1, 2, 5])
def test_a_forward_pass_that_gives_something_else_is_refused_and_the_other_one_is_not(monkeypatch, num_hidden_layers):
    model = tiny_model(num_hidden_layers=num_hidden_layers)
    right = decoder._constants
    monkeypatch.setattr(decoder, "_constants", lambda layer: [*right(layer)[:-1], -right(layer)[-1]])
    with pytest.raises(UnsupportedModelError, match=r"differs from HuggingFace's own attention by \d+%"):
        tiny_llm(model, model_impl="folovllm")
    [output] = tiny_llm(model, model_impl="transformers").generate({"prompt_token_ids": PROMPT}, GREEDY, use_tqdm=False)
    assert output.outputs[0].token_ids == hf_greedy(model, PROMPT, 8)


def test_layers_that_fail_are_refused_in_a_sentence_with_the_error_as_its_cause():
    def fail(*given):
        raise KeyError("inner")

    model = tiny_model()
    model.model.layers[0].mlp = Around(model.model.layers[0].mlp, before=fail)
    with pytest.raises(UnsupportedModelError, match="does not run on tokens and their positions alone") as caught:
        tiny_llm(model, model_impl="transformers")
    assert isinstance(caught.value.__cause__, KeyError)
    assert "inner" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_reason_to_refuse(family, dtype):
    tiny_llm(tiny_model(family).to(dtype))


@pytest.mark.parametrize("layer", range(6))
def test_the_one_layer_of_another_kind_is_looked_at_wherever_it_is(layer):
    model = tiny_model(num_hidden_layers=6)
    odd = model.model.layers[layer]
    odd.mlp = Around(odd.mlp, after=lambda x: x + torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])
    with pytest.raises(UnsupportedModelError, match="tokens reach others by another way than attention"):
        tiny_llm(model, model_impl="transformers")


@pytest.mark.parametrize("max_position_embeddings", [1, 2, 3, 9])
def test_a_model_for_very_short_texts_passes(max_position_embeddings):
    tiny_llm(tiny_model("gpt2", n_positions=max_position_embeddings))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("family", "seed", "scale"), [("phimoe", 1, 0.2), ("exaone_moe", 3, 0.2), ("hrm_text", 1, 0.7)]
)
def test_rounding_that_sends_a_token_to_another_expert_is_no_reason_to_refuse(family, seed, scale, dtype):
    model = small_model(small_config(family))
    torch.manual_seed(seed)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, 0, scale)
    tiny_llm(model.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("change", [with_token_shift, with_positions_of_its_own, with_a_look_at_the_whole_row])
def test_a_wrong_structure_is_refused_in_half_precision_too(change, dtype):
    model = tiny_model("qwen3-moe")
    change(model)
    with pytest.raises(UnsupportedModelError, match="tokens reach others by another way than attention"):
        tiny_llm(model.to(dtype))


@pytest.mark.parametrize("family", ["llama", "qwen3-moe"])
def test_code_of_the_owners_is_looked_at_in_the_middle_of_many_layers_and_behind_the_last(family):
    for place in ("layers.8.mlp", "norm"):
        model = tiny_model(family, num_hidden_layers=12)
        odd = model.model.get_submodule(place)
        odd.forward = lambda x, inner=odd.forward: inner(x) + inner(x).roll(1, dims=1)
        with pytest.raises(UnsupportedModelError, match="tokens reach others by another way than attention"):
            tiny_llm(model)


def test_a_model_whose_own_result_is_not_finite_is_refused_as_that_or_taken_as_it_is():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[0].ln_1.weight.fill_(torch.nan)
    tiny_llm(model)
    for model_impl in ("folovllm", "transformers"):
        with pytest.raises(UnsupportedModelError, match="HuggingFace's own forward pass gives NaN or infinity"):
            tiny_llm(tiny_model(rope_parameters={"rope_type": "default", "rope_theta": 0.0}), model_impl=model_impl)


def test_a_verdict_is_kept_for_the_model(monkeypatch):
    runs = []
    run = self_test._SelfTest.run
    monkeypatch.setattr(self_test._SelfTest, "run", lambda self: runs.append(1) or run(self))
    model = tiny_model()
    llm = tiny_llm(model)
    llm.with_settings(swap_space=0.001)
    assert len(runs) == 1
    llm.with_settings(swap_space=0.001, model_impl="transformers")
    assert len(runs) == 2
    tiny_llm(copy.deepcopy(model))
    assert len(runs) == 3


@pytest.mark.parametrize("window", [1, 2, 3, 8, 255, 600, 4096, 131072])
def test_the_window_of_a_mask_is_found(window):
    assert find_window(masking_utils.sliding_window_causal_mask_function(window)) == window


def test_a_causal_mask_has_no_window():
    assert find_window(masking_utils.causal_mask_function) is None


@pytest.mark.parametrize("size", [2, 3, 8, 256, 8192])
def test_a_mask_that_is_no_window_is_refused(size):
    chunks = masking_utils.chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long))
    with pytest.raises(ValueError, match="depends on more than the distance"):
        find_window(chunks)
    for mask_function in (
        masking_utils.bidirectional_mask_function,
        masking_utils.or_masks(masking_utils.causal_mask_function, lambda b, h, q, kv: kv < size + 10),
    ):
        with pytest.raises(ValueError, match="not causal"):
            find_window(mask_function)
    with pytest.raises(ValueError, match="depends on more than the distance"):
        find_window(masking_utils.and_masks(masking_utils.causal_mask_function, lambda b, h, q, kv: (q - kv) % 3 == 0))
    meta = masking_utils.chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long, device="meta"))
    with pytest.raises(ValueError, match="depends on more than the distance"):
        find_window(meta)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")], ids=repr)
@pytest.mark.parametrize(("where", "family"), [("self_test", "llama"), ("probe", "gpt2")])
def test_too_little_memory_is_said_as_that_and_not_as_a_fault_of_the_model(where, family, error, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(f"folovllm.models.{where}.run_with_attention", fail)
    with pytest.raises(ValueError, match="there is too little memory"):
        tiny_llm(tiny_model(family))
