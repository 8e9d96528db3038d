"""Log-probabilities and ranks against a reference in numpy float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from folovllm.sampling.sampler import Sampler, SamplerOutput, SamplingMetadata, SamplingRow, compute_logprobs
from folovllm.sampling_params import SamplingParams

pytestmark = pytest.mark.usefixtures("way")

CPU = torch.device("cpu")


def random_logits(num_rows: int, vocab_size: int) -> Tensor:
    return torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(0)) * 4


def reference(logits: Tensor) -> np.ndarray:
    exact = logits.double().numpy()
    exact = exact - exact.max(axis=-1, keepdims=True)
    return exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))


def run(logits: Tensor, *params: SamplingParams) -> SamplerOutput:
    rows = [SamplingRow(each, [0], [], 0.9) for each in params]
    return Sampler()(logits, SamplingMetadata.build(rows, logits.shape[-1], CPU))


@pytest.mark.parametrize(("num_rows", "vocab_size"), [(500, 9), (100, 1000), (8, 49_152)])
@pytest.mark.parametrize("num_logprobs", [0, 1, 5])
def test_logprobs_and_ranks_equal_the_reference(num_rows: int, vocab_size: int, num_logprobs: int) -> None:
    logits = random_logits(num_rows, vocab_size)
    token_ids = torch.randint(0, vocab_size, (num_rows,), generator=torch.Generator().manual_seed(1))
    ours = compute_logprobs(logits, token_ids, num_logprobs)
    exact = reference(logits)
    assert ours.token_ids.shape == ours.logprobs.shape == (num_rows, 1 + num_logprobs)
    for row in range(num_rows):
        own = int(token_ids[row])
        likeliest = np.argsort(-exact[row], kind="stable")
        assert ours.token_ids[row].tolist() == [own, *likeliest[:num_logprobs].tolist()]
        np.testing.assert_allclose(ours.logprobs[row].numpy(), exact[row][ours.token_ids[row].numpy()], atol=1e-5)
        assert int(ours.ranks[row]) == likeliest.tolist().index(own) + 1


def test_ranks_count_equal_tokens_as_vllm_does() -> None:
    logits = torch.tensor([[2.0, 2.0, 1.0, 0.0, 0.0]]).expand(5, -1)
    assert compute_logprobs(logits, torch.arange(5), 0).ranks.tolist() == [2, 2, 3, 5, 5]


def test_a_masked_token_is_judged_minus_infinity_and_last() -> None:
    judged = compute_logprobs(torch.tensor([[0.0, -math.inf, 1.0]]), torch.tensor([1]), 1)
    assert judged.logprobs[0, 0] == -math.inf
    assert judged.ranks.tolist() == [3]


def test_extreme_logits_give_no_nan() -> None:
    judged = compute_logprobs(torch.tensor([[1e30, -1e30, 0.0]]), torch.tensor([0]), 3)
    assert judged.logprobs[0].tolist() == [0.0, 0.0, pytest.approx(-1e30), pytest.approx(-2e30)]


def test_more_logprobs_than_tokens_give_the_whole_vocabulary() -> None:
    judged = compute_logprobs(random_logits(2, 6), torch.tensor([0, 1]), 50)
    assert judged.token_ids.shape == (2, 7)
    assert sorted(judged.token_ids[0, 1:].tolist()) == list(range(6))


def test_logprobs_are_of_the_raw_logits_whatever_is_filtered() -> None:
    logits = random_logits(1, 50)
    strong: dict[str, Any] = {
        "temperature": 0.3, "top_k": 4, "top_p": 0.7, "min_p": 0.01, "presence_penalty": 1.5,
        "logit_bias": {7: 60.0}, "allowed_token_ids": [7, 8],
    }  # fmt: skip
    output = run(logits, SamplingParams(logprobs=3, **strong))
    assert output.token_ids.tolist() == [7]
    assert output.logprobs is not None
    exact = reference(logits)[0]
    assert output.logprobs.token_ids[0].tolist() == [7, *np.argsort(-exact)[:3].tolist()]
    np.testing.assert_allclose(output.logprobs.logprobs[0, 0], exact[7], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_judged_in_float32(dtype: torch.dtype) -> None:
    logits = random_logits(4, 200).to(dtype)
    output = run(logits, *[SamplingParams(temperature=0, logprobs=2)] * 4)
    assert output.logprobs is not None
    assert output.logprobs.logprobs.dtype == torch.float32
    exact = reference(logits.float())
    np.testing.assert_allclose(output.logprobs.logprobs[:, 0], exact.max(axis=-1), atol=1e-5)


def test_a_batch_has_as_many_logprobs_as_its_most_demanding_row() -> None:
    logits = random_logits(3, 20)
    for most, columns in ((0, 1), (2, 3), (5, 6), (-1, 21)):
        output = run(logits, SamplingParams(), SamplingParams(logprobs=0), SamplingParams(logprobs=most))
        assert output.logprobs is not None
        assert output.logprobs.token_ids.shape == (3, columns)


def test_nobody_asking_means_no_logprobs() -> None:
    assert run(random_logits(2, 20), SamplingParams(), SamplingParams(temperature=0)).logprobs is None


def test_ranking_by_best_of_needs_the_chosen_tokens_logprob_only() -> None:
    output = run(random_logits(1, 20), SamplingParams(n=1, best_of=2))
    assert output.logprobs is not None
    assert output.logprobs.token_ids.tolist() == [output.token_ids.tolist()]
