"""Recorded steps give the tokens of steps that are not, whatever the engine goes through.

MPS records nothing: there these tests compare an engine with itself.
"""

import pytest
import torch

from folovllm import LLM, SamplingParams
from folovllm.models import decode_graphs
from folovllm.models.decode_graphs import is_decoding
from folovllm.models.torch_decoder import TorchDecoder
from tests.engine_checks import assert_at_rest
from tests.tiny_models import hf_greedy, tiny_llm, tiny_model

PROMPTS = [{"prompt_token_ids": list(range(3, 3 + length))} for length in (1, 7, 40, 100)]


def tokens(llm: LLM, params: SamplingParams | list[SamplingParams], prompts=PROMPTS) -> list[list[list[int]]]:
    outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [each.error for each in outputs] == [None] * len(outputs)
    assert_at_rest(llm)
    return [[each.token_ids for each in output.outputs] for output in outputs]


@pytest.mark.parametrize("family", ["qwen3", "mistral-window"])
def test_greedy_tokens_are_huggingfaces_past_every_size(device, family):
    """The tables of blocks of 4 grow wider, and the texts end one after the other."""
    lengths = [60, 35, 20, 5]
    params = [SamplingParams(temperature=0, max_tokens=length) for length in lengths]
    expected = [
        [hf_greedy(tiny_model(family), prompt["prompt_token_ids"], length)]
        for prompt, length in zip(PROMPTS, lengths, strict=True)
    ]
    llm = tiny_llm(tiny_model(family).to(device), block_size=4, num_gpu_blocks_override=200)
    assert tokens(llm, params) == expected


SETTINGS = {
    "starved": {"num_gpu_blocks_override": 24},
    "chunks": {"max_num_batched_tokens": 16, "max_num_seqs": 16},
    "guesses": {"num_speculative_tokens": 3},
    "few seats": {"max_num_seqs": 3},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_drawn_tokens_are_those_of_an_engine_that_records_nothing(device, settings):
    model = tiny_model().to(device)
    params = [SamplingParams(n=2, seed=seed, max_tokens=14, top_p=0.9, repetition_penalty=1.1) for seed in range(3)]
    settings = {"block_size": 4, "num_gpu_blocks_override": 100} | settings
    expected = tokens(tiny_llm(model, enforce_eager=True, **settings), params, PROMPTS[:3])
    llm = tiny_llm(model, **settings)
    assert tokens(llm, params, PROMPTS[:3]) == expected
    assert tokens(llm, params, PROMPTS[:3]) == expected  # all from recordings


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 17])
def test_a_crowd_of_any_size_is_filled_up_and_cut_again(device, count):
    prompts = [{"prompt_token_ids": [5 + i, 9, 11]} for i in range(count)]
    llm = tiny_llm(tiny_model().to(device), num_gpu_blocks_override=100)
    expected = [[hf_greedy(tiny_model(), each["prompt_token_ids"], 4)] for each in prompts]
    assert tokens(llm, SamplingParams(temperature=0, max_tokens=4), prompts) == expected
    num_tokens = sum(3 + len(text) - 1 for [text] in expected)  # what fills up is not counted
    assert llm.llm_engine.model_runner.num_tokens_run == num_tokens


def test_logits_stay_when_the_same_recording_is_replayed(device):
    llm = tiny_llm(tiny_model().to(device), num_gpu_blocks_override=100)
    first = llm.compute_logits({"prompt_token_ids": [5]})
    kept = first.clone()
    assert not torch.equal(llm.compute_logits({"prompt_token_ids": [6]}), kept)
    assert torch.equal(first, kept)


def test_an_interrupt_while_it_records_leaves_the_engine_usable(device, monkeypatch):
    llm = tiny_llm(tiny_model().to(device), num_gpu_blocks_override=100)
    right, calls = TorchDecoder.__call__, []

    def interrupted(decoder: TorchDecoder, batch):
        calls.append(is_decoding(batch.token_ids, batch.rows, batch.counts))
        logits = right(decoder, batch)
        if sum(calls) == 2:  # the first is for warming up
            calls.append(True)
            raise KeyboardInterrupt
        return logits

    monkeypatch.setattr(TorchDecoder, "__call__", interrupted)
    params = SamplingParams(temperature=0, max_tokens=12)
    if device == "cuda":
        with pytest.raises(KeyboardInterrupt):
            llm.generate(PROMPTS[1:2], params, use_tqdm=False)
    assert tokens(llm, params) == [[hf_greedy(tiny_model(), each["prompt_token_ids"], 12)] for each in PROMPTS]


def test_sizes_are_few(monkeypatch):
    """Batches and tables of all sizes make as many recordings as can be held."""
    sizes = set()
    monkeypatch.setattr(
        decode_graphs, "FlatBatch", lambda ids, rows, runs, cache, blocks: sizes.add((len(runs), blocks))
    )
    for count in range(1, 257):
        for num_blocks in (1, 5, 8, 9, 40, 500, 512):
            run = decode_graphs.TokenRun(0, 1, [0] * num_blocks)
            decode_graphs.fill_up([1] * count, [0] * count, [run] * count, None)
    assert {size for size, _ in sizes} == {1, 2, 4, *range(8, 257, 8)}
    assert {blocks for _, blocks in sizes} == {8, 16, 64, 512}
