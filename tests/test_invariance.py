"""Whatever happens around a request, its tokens are those of running it alone, and so is every bit of its logprobs."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from folovllm import LLMEngine, SamplingParams
from folovllm.llm import make_engine_config
from folovllm.models.flat_batch import FlatBatch
from folovllm.outputs import RequestOutput
from tests.engine_checks import assert_at_rest
from tests.tiny_models import VOCAB_SIZE, tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

BASE = list(range(3, 83))


@cache
def model():
    return tiny_model(num_hidden_layers=1, hidden_size=32, intermediate_size=48)


def make_prompt(seed: int) -> list[int]:
    """Return a prompt of 1 to 82 tokens; many share a beginning, some one that attention reads once for all."""
    rng = random.Random(seed)
    shared = rng.choice([0, 0, 16, 33, 70, 70])
    return BASE[:shared] + [rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randint(1, 12))]


def make_params(seed: int) -> SamplingParams:
    """Return greedy or seeded parameters with filters, penalties and several completions among them."""
    rng = random.Random(seed)
    length = {"max_tokens": rng.randint(1, 14), "ignore_eos": rng.random() < 0.5}
    length |= {"logprobs": rng.choice([None, 0, 3]), "prompt_logprobs": rng.choice([None, None, 0, 2])}
    if rng.random() < 0.4:
        penalty = rng.choice([{}, {"repetition_penalty": 1.3}, {"frequency_penalty": 0.5}])
        return SamplingParams(temperature=0, **length, **penalty)
    n = rng.choice([1, 1, 2, 3])
    filters = rng.choice([{}, {"top_p": 0.9}, {"top_k": 20}, {"min_p": 0.05, "top_p": 0.8}, {"presence_penalty": 1.0}])
    return SamplingParams(
        n=n,
        best_of=n + rng.choice([0, 0, 1, 2]),
        seed=seed,
        temperature=rng.choice([0.7, 1.2, 2.0]),
        **length,
        **filters,
    )


def result_of(output: RequestOutput) -> object:
    """Return all that a request gives: tokens, and logprobs to the last bit."""
    completions = [(each.token_ids, each.cumulative_logprob, each.logprobs) for each in output.outputs]
    return completions, output.prompt_logprobs


@cache
def alone(seed: int) -> object:
    """Return the result of request ``seed`` on an engine of its own, with nothing switched on."""
    llm = tiny_llm(model(), enable_prefix_caching=False)
    assert llm.is_batch_invariant
    [output] = llm.generate({"prompt_token_ids": make_prompt(seed)}, make_params(seed), use_tqdm=False)
    return result_of(output)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads, on however few cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fewest_blocks(seeds: list[int], block_size: int) -> int:
    """Return the blocks that the largest of the requests can need."""
    roomy = tiny_llm(model(), block_size=block_size).llm_engine.scheduler.block_manager
    return max(
        roomy.max_blocks_needed(len(prompt), len(prompt) + params.max_tokens, params.num_sequences)
        for prompt, params in ((make_prompt(seed), make_params(seed)) for seed in seeds)
    )


@given(
    seeds=st.lists(st.integers(0, 60), min_size=1, max_size=7),
    arrivals=st.lists(st.integers(0, 12), min_size=7, max_size=7),
    aborts=st.lists(st.integers(1, 25), max_size=2),
    block_size=st.integers(1, 32),
    spare_blocks=st.sampled_from([0, 0, 1, 3, 10, 1000]),
    max_num_seqs=st.integers(5, 16),
    budget=st.integers(16, 80),
    chunked=st.booleans(),
    caching=st.booleans(),
    swap_space=st.sampled_from([0.0, 0.00001, 0.001]),
    speculation=st.sampled_from([0, 0, 1, 4]),
    num_threads=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=150)
def test_results_are_those_of_running_alone(
    seeds, arrivals, aborts, block_size, spare_blocks, max_num_seqs, budget, chunked, caching, swap_space, speculation,
    num_threads,
):  # fmt: skip
    expected = [alone(seed) for seed in seeds]
    config = make_engine_config(
        "tiny",
        block_size=block_size,
        num_gpu_blocks_override=fewest_blocks(seeds, block_size) + spare_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget if chunked else 128,
        max_model_len=128,
        enable_chunked_prefill=chunked,
        enable_prefix_caching=caching,
        swap_space=swap_space,
        num_speculative_tokens=speculation,
    )
    engine = LLMEngine(config, model(), byte_level_tokenizer())
    finished: dict[str, object] = {}
    aborted: set[str] = set()
    step = 0
    while step <= max(arrivals) or engine.has_unfinished_requests():
        for i, seed in enumerate(seeds):
            if arrivals[i] == step:
                engine.add_request(str(i), {"prompt_token_ids": make_prompt(seed)}, make_params(seed))
        with threads(num_threads):
            outputs = engine.step()
        finished |= {output.request_id: result_of(output) for output in outputs if output.finished}
        step += 1
        for i in range(len(seeds)):
            if i < len(aborts) and aborts[i] == step and engine.abort_request(str(i)) is not None:
                aborted.add(str(i))
        assert step < 2000, "the engine makes no progress"
    assert {*finished, *aborted} == {str(i) for i in range(len(seeds))}
    for i in range(len(seeds)):
        if str(i) not in aborted:
            assert finished[str(i)] == expected[i]
    assert_at_rest(engine)


def test_what_is_read_once_for_several_gives_each_the_bits_it_has_alone(monkeypatch):
    in_common: list[int] = []
    bundle = FlatBatch.bundle

    def spy(batch, pieces):
        pieces, bundles = bundle(batch, pieces)
        in_common.extend(bundles[:, 2].tolist())
        return pieces, bundles

    seeds = [seed for seed in range(60) if make_prompt(seed)[:70] == BASE[:70]]
    expected = [alone(seed) for seed in seeds]
    monkeypatch.setattr(FlatBatch, "bundle", spy)
    prompts = [{"prompt_token_ids": make_prompt(seed)} for seed in seeds]
    outputs = tiny_llm(model()).generate(prompts, [make_params(seed) for seed in seeds], use_tqdm=False)
    assert [result_of(output) for output in outputs] == expected
    assert in_common.count(64) > 10


@pytest.mark.parametrize("family", ["gpt2", "mistral-window", "qwen3"])
def test_other_families_under_pressure_too(family):
    prompts = [{"prompt_token_ids": make_prompt(seed)} for seed in range(8)]
    params = [SamplingParams(n=2, seed=seed, max_tokens=30) for seed in range(8)]
    model = tiny_model(family)
    calm = tiny_llm(model).generate(prompts, params, use_tqdm=False)
    starved = tiny_llm(
        model,
        block_size=3,
        num_gpu_blocks_override=70,
        max_num_seqs=8,
        max_num_batched_tokens=20,
        num_speculative_tokens=2,
        record_history=True,
    )
    pressed = starved.generate(prompts, params, use_tqdm=False)
    assert [[c.token_ids for c in o.outputs] for o in pressed] == [[c.token_ids for c in o.outputs] for o in calm]
    assert any(seq.preempted for step in starved.llm_engine.history.steps for seq in step.sequences)
