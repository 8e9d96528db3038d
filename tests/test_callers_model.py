"""A model that is handed to an LLM stays its owner's: what it was before, it is between any two steps and after."""

import threading

import pytest
import torch

from folovllm import SamplingParams
from tests.tiny_models import hf_greedy, tiny_llm, tiny_model

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
