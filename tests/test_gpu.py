"""What only a CUDA device can show."""

import pytest
import torch

from folovllm import LLM, CacheConfig, SamplingParams
from tests.tiny_models import hf_greedy, tiny_llm, tiny_model

pytestmark = pytest.mark.gpu

PROMPTS = [{"prompt_token_ids": list(range(3, 3 + length))} for length in (1, 7, 40, 100)]
GREEDY = SamplingParams(temperature=0, max_tokens=24)


def test_greedy_tokens_on_the_card_equal_huggingface():
    model = tiny_model().to("cuda")
    llm = tiny_llm(model, num_gpu_blocks_override=100)
    outputs = llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    cpu = tiny_model()
    assert [o.outputs[0].token_ids for o in outputs] == [hf_greedy(cpu, p["prompt_token_ids"], 24) for p in PROMPTS]


def test_the_kv_cache_takes_what_gpu_memory_utilization_allows():
    total = torch.cuda.mem_get_info()[1]
    for share in (0.3, 0.5):
        llm = tiny_llm(tiny_model().to("cuda"), gpu_memory_utilization=share)
        taken = torch.cuda.memory_reserved()
        assert 0.8 * share * total < taken <= share * total
        del llm
        torch.cuda.empty_cache()
    assert CacheConfig().gpu_memory_utilization == 0.9


def test_a_starved_pool_swaps_to_the_host_and_changes_no_token():
    params = [SamplingParams(n=3, seed=seed, max_tokens=20) for seed in range(4)]
    model = tiny_model().to("cuda")
    calm = tiny_llm(model, num_gpu_blocks_override=500).generate(PROMPTS, params, use_tqdm=False)
    starved = tiny_llm(model, block_size=4, num_gpu_blocks_override=45, record_history=True)
    pressed = starved.generate(PROMPTS, params, use_tqdm=False)
    assert [[c.token_ids for c in o.outputs] for o in pressed] == [[c.token_ids for c in o.outputs] for o in calm]
    assert any(step.blocks_swapped_out for step in starved.llm_engine.history.steps)


def test_auto_takes_the_card_and_a_16_bit_dtype(bundled_model_path):
    engine = LLM().llm_engine
    assert engine.config.device.startswith("cuda")
    assert engine.config.model_config.dtype in ("bfloat16", "float16")
    assert engine.model_runner.kv_cache.data.is_cuda
