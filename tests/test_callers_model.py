"""A model that is handed to an LLM stays its owner's: what it was before, it is between any two steps and after."""

import copy
import gc
import threading
import weakref

import pytest
import torch
import transformers
from accelerate import cpu_offload

from folovllm import LLM, SamplingParams
from folovllm.llm import make_engine_config
from folovllm.models.probe import UnsupportedModelError
from tests.tiny_models import hf_greedy, tiny_config, tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

PROMPT = [5 + (7 * i) % 200 for i in range(20)]
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def generate(llm) -> list[int]:
    return llm.generate({"prompt_token_ids": PROMPT}, GREEDY, use_tqdm=False)[0].outputs[0].token_ids


def everything_about(model) -> dict[str, object]:
    """What an owner can see of a model, its weights aside."""
    state = {"config": model.config.to_json_string(), "attention": model.config._attn_implementation}
    for name, module in model.named_modules():
        own = {key: id(value) for key, value in vars(module).items() if not isinstance(value, dict)}
        hooks = {key: list(value) for key, value in vars(module).items() if key.endswith("_hooks")}
        buffers = {key: (id(value), value.tolist()) for key, value in module.named_buffers(recurse=False)}
        state[name] = (type(module), module.training, own, hooks, buffers, list(module._modules))
    return state


@pytest.mark.parametrize("model_impl", ["folovllm", "transformers"])
@pytest.mark.parametrize("own_attention", ["sdpa", "eager"])
def test_nothing_of_the_model_is_changed(model_impl, own_attention):
    model = tiny_model()
    model.set_attn_implementation(own_attention)
    model.model.layers[1].train()
    if model_impl == "transformers":
        model.model.layers[0].register_forward_hook(lambda *given: None)
    before, expected, random = everything_about(model), hf_greedy(model, PROMPT, 8), torch.get_rng_state()
    llm = tiny_llm(model, model_impl=model_impl)
    assert everything_about(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert generate(llm) == expected
    assert everything_about(model) == before
    assert hf_greedy(model, PROMPT, 8) == expected


def test_dropout_is_off_in_our_steps_and_on_again_after_them():
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    expected = hf_greedy(model, PROMPT, 8)
    model.train()
    assert generate(tiny_llm(model)) == expected
    assert all(module.training for module in model.modules())


def test_the_owner_may_generate_between_two_steps_of_a_stream_and_beside_another_llm():
    model = tiny_model("gpt2")
    expected = hf_greedy(model, PROMPT, 8)
    llm = tiny_llm(model)
    other = llm.with_settings(swap_space=0.001, block_size=4)
    outputs = []
    for output in llm.stream({"prompt_token_ids": PROMPT}, GREEDY):
        outputs.append(output)
        assert hf_greedy(model, PROMPT, 8) == expected
        assert generate(other) == expected
    assert outputs[-1].outputs[0].token_ids == expected


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_inside_a_step_leaves_the_model_as_it_was(error):
    model = tiny_model("gpt2")
    expected, llm = hf_greedy(model, PROMPT, 8), tiny_llm(model)
    model.train()
    before = everything_about(model)

    def fail(*given):
        raise error

    handle = model.transformer.h[1].register_forward_hook(fail)
    with pytest.raises(error):
        generate(llm)
    handle.remove()
    assert everything_about(model) == before
    model.eval()
    assert hf_greedy(model, PROMPT, 8) == expected == generate(llm)


def test_another_thread_may_use_the_model_at_the_same_time():
    model = tiny_model("gpt2")
    expected, llm = hf_greedy(model, PROMPT, 8), tiny_llm(model)
    stop, found = threading.Event(), []

    def own_generate() -> None:
        while not stop.is_set():
            found.append(hf_greedy(model, PROMPT, 8))

    thread = threading.Thread(target=own_generate)
    thread.start()
    try:
        outputs = [generate(llm) for _ in range(10)]
    finally:
        stop.set()
        thread.join()
    assert outputs == [expected] * 10
    assert found
    assert all(tokens == expected for tokens in found)


def test_hooks_get_the_owners_modules_in_every_step_and_no_call_when_the_llm_is_made():
    model = tiny_model("gpt2")
    met = []
    model.transformer.h[0].register_forward_hook(lambda module, given, output: met.append(module))
    llm = tiny_llm(model)
    assert met == []
    generate(llm)
    assert len(met) == 8
    assert all(module is model.transformer.h[0] for module in met)


def drop_a_layer(model):
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1


def add_a_layer(model):
    model.model.layers.append(copy.deepcopy(model.model.layers[0]))
    model.model.layers[2].self_attn.layer_idx = 2
    model.config.num_hidden_layers = 3


def narrow_the_window(model):
    model.config.sliding_window = 4


@pytest.mark.parametrize("model_impl", ["folovllm", "transformers"])
@pytest.mark.parametrize(
    ("family", "change"),
    [("llama", drop_a_layer), ("llama", add_a_layer), ("mistral-window", narrow_the_window)],
)
def test_what_was_found_out_about_a_model_is_looked_up_again_once_it_is_changed(family, change, model_impl):
    model = tiny_model(family)
    tiny_llm(model, model_impl=model_impl)
    change(model)
    assert generate(tiny_llm(model, model_impl=model_impl)) == hf_greedy(model, PROMPT, 8)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3-moe"])
@pytest.mark.parametrize("more", [False, True])
def test_layers_that_the_config_does_not_know_are_refused_or_without_effect_as_in_huggingface(family, more):
    model = tiny_model(family)
    decoder, name = (model.transformer, "h") if family == "gpt2" else (model.model, "layers")
    layers = getattr(decoder, name)
    setattr(decoder, name, torch.nn.ModuleList([*layers, copy.deepcopy(layers[0])]) if more else layers[:1])
    if more and family != "gpt2":  # these run as many layers as their config says
        assert generate(tiny_llm(model)) == hf_greedy(model, PROMPT, 8)
    else:
        with pytest.raises(UnsupportedModelError, match="more or fewer times than the 2 that its config gives"):
            tiny_llm(model)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_model_without_layers_is_refused(family):
    with pytest.raises(UnsupportedModelError, match="num_hidden_layers is 0; at least 1 is needed"):
        tiny_llm(tiny_model(family, num_hidden_layers=0))


def test_a_config_that_was_emptied_after_loading_is_refused():
    model = tiny_model()
    model.config.num_key_value_heads = 0
    with pytest.raises(UnsupportedModelError, match="num_key_value_heads is 0; at least 1 is needed"):
        tiny_llm(model)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_around_any_of_it_is_for_its_owners_own_code(family, dtype):
    expected = hf_greedy(tiny_model(family), PROMPT, 8)
    with torch.autocast("cpu", dtype=dtype):
        llm = tiny_llm(tiny_model(family))
        assert generate(llm) == expected
    assert generate(llm) == expected


def test_a_patched_model_is_freed_with_its_last_llm():
    model = tiny_model()
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x, inner=mlp.forward: inner(x)
    tiny_llm(model)
    freed = weakref.ref(model)
    del model, mlp
    gc.collect()
    assert freed() is None


def offloaded(model):
    cpu_offload(model, execution_device="cpu")
    return model


NO_MODELS = {
    "a name": (lambda: "llama", "got 'llama'"),
    "compiled": (lambda: torch.compile(tiny_model()), r"got a OptimizedModule; pass the model .* as \._orig_mod"),
    "parallel": (lambda: torch.nn.DataParallel(tiny_model()), r"got a DataParallel; pass the model .* as \.module"),
    "no head": (lambda: tiny_model().model, "must have a language-model head, .* got a LlamaModel without one"),
    "classes": (
        lambda: transformers.LlamaForSequenceClassification(tiny_config()),
        "must have a language-model head, .* got a LlamaForSequenceClassification without one",
    ),
    "meta": (lambda: tiny_model().to("meta"), "must have its weights in memory"),
    "offloaded": (lambda: offloaded(tiny_model()), "must have its weights in memory"),
}


@pytest.mark.parametrize("case", NO_MODELS)
def test_what_is_no_model_is_refused_by_what_it_is(case):
    make, message = NO_MODELS[case]
    with pytest.raises(ValueError, match=f"^model .*{message}"):
        LLM.from_engine_config(make_engine_config("tiny"), make(), byte_level_tokenizer())


@pytest.mark.parametrize("tokenizer", ["x", lambda text: [1]])
def test_what_is_no_tokenizer_is_refused_by_what_it_is(tokenizer):
    with pytest.raises(ValueError, match=r"^tokenizer must be a transformers tokenizer .*, got ('x'|a function)"):
        LLM.from_engine_config(make_engine_config("tiny"), tiny_model(), tokenizer)
