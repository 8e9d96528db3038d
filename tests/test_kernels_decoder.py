"""A whole forward pass is HuggingFace's in float32, with the same bits for any number of threads and any cut."""

import sys

import numpy as np
import pytest
import torch

from folovllm.models.decoder import FlatDecoder
from folovllm.models.flat_batch import FlatBatch, TokenRun
from folovllm.models.kv_cache import KVCache
from folovllm.models.probe import get_attention
from tests.kernel_arrays import same_bits
from tests.tiny_models import FLAT_FAMILIES, VOCAB_SIZE, tiny_model

BLOCK_SIZE = 5


def run(hf_model, prompts: list[np.ndarray], lengths: list[int], num_threads: int = 1) -> list[np.ndarray]:
    """Return the logits of prompts in one batch, ``lengths[i]`` tokens of prompt i in each step."""
    rng = np.random.default_rng(sum(lengths) + num_threads)
    most_blocks = max(-(-len(prompt) // BLOCK_SIZE) for prompt in prompts)
    tables = rng.permutation(len(prompts) * most_blocks).reshape(len(prompts), most_blocks).tolist()
    spec = get_attention(hf_model)
    sizes = spec.num_layers, len(prompts) * most_blocks, BLOCK_SIZE, spec.num_kv_heads, spec.head_dim
    cache = KVCache(*sizes, torch.float32, torch.device("cpu"))
    cache.data.fill_(torch.nan)
    forward = FlatDecoder(hf_model)
    results: list[list[np.ndarray]] = [[] for _ in prompts]
    done = [0] * len(prompts)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        while any(done[i] < len(prompt) for i, prompt in enumerate(prompts)):
            runs, tokens, whose = [], [], []
            for i, prompt in enumerate(prompts):
                count = min(lengths[i], len(prompt) - done[i])
                if count > 0:
                    runs.append(TokenRun(done[i], count, tables[i][: -(-(done[i] + count) // BLOCK_SIZE)]))
                    tokens += prompt[done[i] : done[i] + count].tolist()
                    whose += [i] * count
                    done[i] += count
            logits = forward(FlatBatch(tokens, list(range(len(tokens))), runs, cache)).numpy()
            for i, row in zip(whose, logits, strict=True):
                results[i].append(row)
    finally:
        torch.set_num_threads(threads_before)
    return [np.stack(rows) for rows in results]


@pytest.fixture(scope="module", params=FLAT_FAMILIES)
def hf_model(request):
    model = tiny_model(request.param, tie_word_embeddings=False)
    with torch.no_grad():  # made as 0 and as 1, which would hide that they are left out
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCAB_SIZE, length) for length in (70, 1, 33, 18)]


def test_logits_are_those_of_huggingface(hf_model, prompts):
    for prompt, logits in zip(prompts, run(hf_model, prompts, [70] * 4), strict=True):
        with torch.inference_mode():
            expected = hf_model(torch.from_numpy(prompt)[None]).logits[0].numpy()
        np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


def test_the_number_of_threads_changes_no_bit(hf_model, prompts):
    expected = run(hf_model, prompts, [16, 5, 1, 7])
    for num_threads in (2, 4):
        for _ in range(3):
            for a, b in zip(run(hf_model, prompts, [16, 5, 1, 7], num_threads), expected, strict=True):
                assert same_bits(a, b)


def test_the_batch_and_the_cut_change_no_bit(hf_model, prompts):
    alone = [run(hf_model, [prompt], [len(prompt)])[0] for prompt in prompts]
    for lengths in ([70, 70, 70, 70], [1, 1, 1, 1], [2, 5, 16, 1], [24, 1, 2, 3]):
        for a, b in zip(run(hf_model, prompts, lengths, 2), alone, strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize("part", [1, 16, 40])
def test_a_step_that_is_divided_has_the_same_bits(hf_model, prompts, part, monkeypatch):
    whole = run(hf_model, prompts, [70, 9, 33, 18])
    monkeypatch.setattr("folovllm.models.decoder._PART", part)
    for a, b in zip(run(hf_model, prompts, [70, 9, 33, 18], 2), whole, strict=True):
        assert same_bits(a, b)


def prepare(num_tokens: int, rows: list[int]) -> tuple[FlatDecoder, FlatBatch]:
    """Return a forward pass and one prompt for it."""
    model = tiny_model()
    spec = get_attention(model)
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    sizes = spec.num_layers, num_blocks, BLOCK_SIZE, spec.num_kv_heads, spec.head_dim
    cache = KVCache(*sizes, torch.float32, torch.device("cpu"))
    tokens = np.random.default_rng(0).integers(3, VOCAB_SIZE, num_tokens).tolist()
    return FlatDecoder(model), FlatBatch(tokens, rows, [TokenRun(0, num_tokens, list(range(num_blocks)))], cache)


@pytest.mark.parametrize("part", [16, 32, 1000])
def test_of_a_divided_step_come_the_logits_that_are_wanted(part, monkeypatch):
    monkeypatch.setattr("folovllm.models.decoder._PART", part)
    forward, batch = prepare(90, list(range(90)))
    every = forward(batch).numpy()
    for rows in ([0], [89], [15, 16, 17], [3, 40, 41, 88], []):
        forward, batch = prepare(90, rows)
        assert same_bits(forward(batch).numpy(), every[rows])


def test_a_forward_pass_keeps_nothing(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # a helper that comes late holds all until it has looked
    forward, batch = prepare(40, [39])
    forward(batch)
    arrays = [*forward._room, batch.seen, batch.slots, batch.kv_cache.data.numpy().base]
    held = [sys.getrefcount(array) for array in arrays]
    for _ in range(5):
        forward(batch)
    assert [sys.getrefcount(array) for array in arrays] == held
