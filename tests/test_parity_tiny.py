"""Greedy tokens equal HuggingFace's ``generate``, for every family that the engine takes."""

import random

import pytest
import torch
from transformers import BartConfig, BloomConfig, Gemma2Config, LlamaConfig, MambaConfig

from folovllm import SamplingParams
from folovllm.engine.draws import plan_draws
from folovllm.models import probe
from folovllm.models.probe import UnsupportedModelError, probe_attention
from tests.tiny_models import FAMILIES, FLAT_FAMILIES, VOCAB_SIZE, hf_greedy, tiny_config, tiny_llm, tiny_model

GREEDY = SamplingParams(temperature=0, max_tokens=24)
LENGTHS = (1, 2, 7, 16, 17, 40, 100)


def random_prompts(seed: int = 0) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCAB_SIZE) for _ in range(length)] for length in LENGTHS]


RUNS = [*((family, "auto") for family in FAMILIES), *((family, "transformers") for family in FLAT_FAMILIES)]


@pytest.mark.parametrize(("family", "model_impl"), RUNS)
def test_greedy_tokens_equal_huggingface(family, model_impl):
    model = tiny_model(family)
    prompts = random_prompts()
    expected = [hf_greedy(model, prompt, GREEDY.max_tokens) for prompt in prompts]
    llm = tiny_llm(model, max_num_batched_tokens=32, max_num_seqs=8, block_size=4, model_impl=model_impl)
    together = llm.generate([{"prompt_token_ids": p} for p in prompts], GREEDY, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in together] == expected
    alone = [llm.generate({"prompt_token_ids": p}, GREEDY, use_tqdm=False)[0] for p in prompts]
    assert [output.outputs[0].token_ids for output in alone] == expected


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "mistral-window", "gemma3-window"])
def test_a_beginning_shared_by_the_batch_changes_no_token(family):
    model = tiny_model(family)
    rng = random.Random(5)
    beginning = [rng.randrange(3, VOCAB_SIZE) for _ in range(97)]
    prompts = [beginning + prompt for prompt in random_prompts()]
    expected = [hf_greedy(model, prompt, GREEDY.max_tokens) for prompt in prompts]
    llm = tiny_llm(model, block_size=4)
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], GREEDY, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == expected


@pytest.mark.parametrize(("family", "model_impl"), RUNS)
def test_logits_are_within_1e_4_of_huggingface(family, model_impl):
    model = tiny_model(family)
    prompts = random_prompts(seed=1)
    with torch.inference_mode():
        expected = [model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts]
    llm = tiny_llm(model, model_impl=model_impl)
    engine = llm.llm_engine
    for i, prompt in enumerate(prompts):
        engine.add_request(str(i), {"prompt_token_ids": prompt}, GREEDY)
    step = engine.scheduler.schedule()
    logits = engine.model_runner.execute(step)
    assert len(plan_draws(step)) == len(prompts)
    torch.testing.assert_close(logits, torch.stack(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Gemma2Config(num_hidden_layers=2), "softcap"),
        (BartConfig(), "encoder"),
        (BloomConfig(), "none of its 2 layers"),
        (MambaConfig(num_hidden_layers=2), "none of its 2 layers.* recurrent state"),
        (LlamaConfig(num_hidden_layers=1, rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "dynamic"),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_what_the_attention_cannot_do_is_refused_by_name(config, reason):
    with pytest.raises(UnsupportedModelError, match=f"{config.model_type}.*{reason}"):
        probe_attention(config)


@pytest.mark.parametrize("family", FLAT_FAMILIES)
def test_what_is_known_of_a_family_is_what_its_probe_finds(family, monkeypatch):
    configs = [tiny_config(family), tiny_config(family, num_key_value_heads=4), tiny_config(family, head_dim=32)]
    known = [probe_attention(config) for config in configs]
    monkeypatch.setattr(probe, "_KNOWN_CONFIGS", ())
    assert [probe_attention(config) for config in configs] == known


def test_nothing_is_padded():
    prompts = random_prompts()
    llm = tiny_llm()
    outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], GREEDY, use_tqdm=False)
    # The last token of each output is never computed.
    needed = sum(len(p) for p in prompts) + sum(len(o.outputs[0].token_ids) - 1 for o in outputs)
    assert llm.llm_engine.model_runner.num_tokens_run == needed
