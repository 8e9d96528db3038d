"""The loops over a row, and the filters and draws that rest on them, against brute force in NumPy and plain Python."""

import itertools
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import folovllm.kernels.sampling as kernels
from folovllm.sampling import compiled_rows
from folovllm.sampling.sampler import (
    Sampler,
    SamplingMetadata,
    SamplingRow,
    apply_min_p,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    compute_logprobs,
    filter_logits,
    sample_from_uniform,
)
from folovllm.sampling_params import SamplingParams

CPU = torch.device("cpu")
ORDERS = ["huggingface", "vllm"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_ties(logits: Tensor) -> Tensor:
    """As a bfloat16 model gives them."""
    return logits.bfloat16().float()


def metadata_for(*params: SamplingParams) -> SamplingMetadata:
    rng = random.Random(0)
    return SamplingMetadata.build([SamplingRow(each, [0], [], rng.random()) for each in params], 10, CPU)


def random_params(rng: random.Random, most: int) -> SamplingParams:
    def maybe(value: Any, otherwise: Any) -> Any:
        return value if rng.random() < 0.7 else otherwise

    return SamplingParams(
        temperature=rng.choice([0.3, 1.0, rng.uniform(0.1, 2)]),
        top_k=maybe(rng.choice([1, 2, 50, rng.randrange(1, most)]), 0),
        top_p=maybe(rng.uniform(0.02, 0.999), 1.0),
        min_p=maybe(rng.uniform(0, 0.3), 0.0),
    )


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# the border of a top-k


@pytest.mark.parametrize("kind", ["noise", "ties", "few values", "masked", "falling", "rising", "zeros", "tiny"])
@pytest.mark.parametrize("vocab_size", [1, 2, 3, 17, 511, 512, 513, 4099])
def test_top_k_keeps_what_a_sort_would(vocab_size: int, kind: str) -> None:
    logits = noise(7, vocab_size)
    if kind == "ties":
        logits = with_ties(logits)
    elif kind == "few values":
        logits = logits.round()
    elif kind == "masked":
        logits = logits.masked_fill(logits < 1.5, -math.inf)
        logits[:, -1] = 0.0
    elif kind == "zeros":
        logits = torch.where(logits > 0, 0.0, -0.0)
    elif kind == "tiny":
        logits = logits * 1e-44
    elif kind != "noise":
        logits = logits.sort(dim=-1, descending=kind == "falling").values
    for top_k in {1, 2, 3, vocab_size // 40 + 1, vocab_size // 3 + 1, vocab_size - 1, vocab_size, 10**9} - {0}:
        filtered = apply_top_k(logits, torch.full((7,), top_k))
        border = logits.sort(dim=-1, descending=True).values[:, min(top_k, vocab_size) - 1, None]
        assert torch.equal(filtered, torch.where(logits < border, -math.inf, logits)), top_k


def test_tokens_that_the_temperature_makes_equal_are_ties() -> None:
    # The smallest float32 numbers, halved: 40 and 39 of them both round to 20.
    logits = torch.full((1, 3000), -1.0)
    logits[0, :40] = torch.arange(1, 41) * 2.0**-149
    filtered = filter_logits(logits, metadata_for(SamplingParams(temperature=2.0, top_k=1)))
    assert (filtered[0] > -math.inf).nonzero()[:, 0].tolist() == [38, 39]


# the border of the nucleus


def slowly_falling(vocab_size: int = 5000) -> tuple[Tensor, Tensor]:
    """Return logits whose tokens differ little, [1, vocab], and their ids, likeliest first."""
    ranked = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(3))
    logits = torch.empty(1, vocab_size)
    logits[0, ranked] = -0.001 * torch.arange(vocab_size)
    return logits, ranked


@pytest.mark.parametrize("size", [1, 2, 3, 511, 512, 513, 4000, 4999, 5000])
def test_a_nucleus_has_the_right_size(size: int) -> None:
    logits, ranked = slowly_falling()
    weights = logits[0, ranked].double().exp()
    reached = weights.cumsum(0) / weights.sum()
    # Half-way between the masses of size - 1 tokens and of size tokens.
    top_p = float(reached[size - 1] - weights[size - 1] / weights.sum() / 2)
    kept = apply_top_p(logits, torch.tensor([top_p], dtype=torch.float64))[0] > -math.inf
    assert sorted(ranked[:size].tolist()) == kept.nonzero()[:, 0].tolist()


@pytest.mark.parametrize("above", [0, 3, 200, 300, 2000])
@pytest.mark.parametrize("num_ties", [2, 11, 400])
def test_of_equal_tokens_at_the_border_the_last_in_the_vocabulary_stay(above: int, num_ties: int) -> None:
    logits, ranked = slowly_falling()
    tied = ranked[above : above + num_ties]
    logits[0, tied] = float(logits[0, tied[0]])
    weights = logits[0, ranked].double().exp()
    for stay in sorted({1, num_ties // 2, num_ties - 1, num_ties}):
        top_p = float((weights[: above + stay].sum() - weights[above] / 2) / weights.sum())
        kept = apply_top_p(logits, torch.tensor([top_p], dtype=torch.float64))[0] > -math.inf
        expected = sorted(ranked[:above].tolist() + sorted(tied.tolist())[-stay:])
        assert kept.nonzero()[:, 0].tolist() == expected, stay


@pytest.mark.parametrize("size", [1, 128, 511, 512, 513, 1023])
def test_a_mass_that_equals_p_exactly_is_enough(size: int) -> None:
    # 1024 equal tokens and p = size / 1024: every sum is exact.
    logits = torch.full((1, 5000), -math.inf)
    tokens = torch.randperm(5000, generator=torch.Generator().manual_seed(4))[:1024].sort().values
    logits[0, tokens] = 2.5
    kept = apply_top_p(logits, torch.tensor([size / 1024], dtype=torch.float64))[0] > -math.inf
    assert kept.nonzero()[:, 0].tolist() == tokens[-size:].tolist()


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.01, 1.0])
def test_flat_rows_keep_the_minimal_set(spread: float) -> None:
    logits = noise(3, 20_000) * spread
    filtered = apply_top_p(logits, torch.tensor([0.2, 0.5, 0.9001], dtype=torch.float64))
    for row, top_p in enumerate((0.2, 0.5, 0.9001)):
        keep, margin = brute_force(logits[row].numpy(), SamplingParams(top_p=top_p), "huggingface")
        kept = (filtered[row] > -math.inf).numpy()
        assert abs(int(kept.sum()) - int(keep.sum())) <= 1
        assert margin < 1e-7 or (kept == keep).all()


# all together


def brute_force(logits: np.ndarray, params: SamplingParams, order: str) -> tuple[np.ndarray, float]:
    """Return which tokens stay, and how near (in probability) the nearest decision was to falling otherwise."""
    scaled = logits / np.float32(params.temperature)
    weights = np.exp(scaled.astype(np.float64) - scaled.max())
    alive = np.isfinite(scaled)
    margin = 1.0

    def top_k() -> None:
        if 0 < params.top_k < len(scaled):
            alive[scaled < np.sort(np.where(alive, scaled, -np.inf))[-params.top_k]] = False

    def top_p() -> None:
        nonlocal margin
        if params.top_p == 1:
            return
        total, reached = weights[alive].sum(), 0.0
        # Likeliest first; of equal ones the last in the vocabulary.
        for token in sorted(np.flatnonzero(alive), key=lambda i: (scaled[i], i), reverse=True):
            margin = min(margin, abs(reached / total - params.top_p))
            if reached >= params.top_p * total:
                alive[token] = False
            reached += weights[token]

    def min_p() -> None:
        nonlocal margin
        if params.min_p > 0:
            relative = weights / weights[alive].max()
            margin = min(margin, float(np.abs(relative[alive] - params.min_p).min()))
            alive[relative < params.min_p] = False

    for step in [top_k, top_p, min_p] if order == "huggingface" else [min_p, top_k, top_p]:
        step()
    return alive, margin


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("spread", "vocab_size"), [(0.1, 1500), (1.0, 3001), (3.0, 1500), (6.0, 5000)])
def test_filters_and_draws_of_mixed_rows_equal_brute_force(spread: float, vocab_size: int, order: Any) -> None:
    num_rows = 60
    rng = random.Random(vocab_size)
    params = [random_params(rng, vocab_size // 8) for _ in range(num_rows)]
    logits = noise(num_rows, vocab_size) * spread
    logits[::2] = with_ties(logits[::2])
    logits[::5] = logits[::5].masked_fill(noise(*logits[::5].shape, seed=1) < 1.5, -math.inf)
    metadata = metadata_for(*params)
    filtered = filter_logits(logits, metadata, order)
    drawn = Sampler(order)(logits, metadata).token_ids
    clear = 0
    for row, each in enumerate(params):
        keep, margin = brute_force(logits[row].numpy(), each, order)
        if margin < 1e-6:
            continue
        clear += 1
        assert (filtered[row] > -math.inf).numpy().tolist() == keep.tolist(), (row, each)
        tempered = logits[row] / torch.tensor(each.temperature)
        assert torch.equal(filtered[row][torch.tensor(keep)], tempered[torch.tensor(keep)])
        weights = np.where(keep, np.exp(tempered.double().numpy() - float(tempered.max())), 0)
        upper = weights.cumsum() / weights.sum()
        uniform = float(metadata.uniforms[row])
        if np.abs(upper - uniform).min() > 1e-6:
            assert int(drawn[row]) == int(np.searchsorted(upper, uniform, side="right")), row
    assert clear > 0.8 * num_rows


@pytest.mark.parametrize("order", ORDERS)
def test_the_engine_draws_what_the_notebooks_functions_draw(order: Any) -> None:
    rng = random.Random(1)
    for vocab_size, seed in itertools.product((9, 700, 3001, 20_000), range(3)):
        params = [random_params(rng, vocab_size) for _ in range(40)]
        logits = with_ties(noise(40, vocab_size, seed=seed) * 3)
        metadata = metadata_for(*params)
        one_by_one = sample_from_uniform(filter_logits(logits, metadata, order), metadata.uniforms)
        assert torch.equal(Sampler(order)(logits, metadata).token_ids, one_by_one)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("vocab_size", [1, 9, 511, 513, 3001, 49_152, 50_003])
def test_a_row_is_the_same_to_the_last_bit_in_any_batch_and_with_any_number_of_threads(
    vocab_size: int, order: Any
) -> None:
    rng = random.Random(vocab_size)
    params = [random_params(rng, vocab_size + 1) for _ in range(24)]
    params[:3] = [SamplingParams(top_p=top_p) for top_p in (1e-6, 1 - 1e-7, 1 - 2**-53)]
    logits = noise(24, vocab_size) * 3
    logits[::4] = with_ties(logits[::4])
    logits[5, 1:] = -math.inf
    metadata = metadata_for(*params)
    names = ("temperature", "top_k", "top_p", "min_p", "uniforms")
    filtered, drawn = filter_logits(logits, metadata, order), Sampler(order)(logits, metadata).token_ids
    judged = compute_logprobs(logits, drawn, 3)
    for num_threads in (1, 2, 4):
        torch.set_num_threads(num_threads)
        for rows in (torch.arange(24), torch.randperm(24)[:7], *torch.arange(24)[:, None]):
            some = replace(
                metadata,
                params=[params[row] for row in rows],
                **{name: getattr(metadata, name)[rows] for name in names},
            )
            part = filter_logits(logits[rows], some, order)
            assert torch.equal(part.view(torch.int32), filtered[rows].view(torch.int32))
            assert torch.equal(Sampler(order)(logits[rows], some).token_ids, drawn[rows])
            again = compute_logprobs(logits[rows], drawn[rows], 3)
            for name in ("token_ids", "logprobs", "ranks"):
                assert torch.equal(getattr(again, name), getattr(judged, name)[rows]), name


def test_one_fused_loop_does_what_one_filter_after_the_other_does() -> None:
    rng = random.Random(2)
    params = [random_params(rng, 300) for _ in range(80)]
    logits = with_ties(noise(80, 5000) * 4)
    metadata = metadata_for(*params)
    tempered = apply_temperature(logits, metadata.temperature)
    cut = apply_top_p(apply_top_k(tempered, metadata.top_k), metadata.top_p)
    assert torch.equal(filter_logits(logits, metadata, "huggingface"), apply_min_p(cut, metadata.min_p))
    cut = apply_top_k(apply_min_p(tempered, metadata.min_p), metadata.top_k)
    assert torch.equal(filter_logits(logits, metadata, "vllm"), apply_top_p(cut, metadata.top_p))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_filtered_and_drawn_from_too(dtype: torch.dtype) -> None:
    logits = with_ties(noise(20, 700) * 2).to(dtype)
    uniforms = torch.rand(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name, value in ((apply_top_k, 9), (apply_top_p, 0.8), (apply_min_p, 0.1)):
        filtered = name(logits, torch.full((20,), value))
        assert filtered.dtype == dtype
        assert torch.equal(filtered.isneginf(), name(logits.float(), torch.full((20,), value)).isneginf())
    assert sample_from_uniform(logits, uniforms).tolist() == sample_from_uniform(logits.float(), uniforms).tolist()


def test_an_unusable_row_is_told_of_and_leaves_its_neighbours_alone() -> None:
    logits = noise(6, 3000)
    expected = compiled_rows.sample_rows(logits, torch.full((6,), 0.5), top_p=torch.full((6,), 0.9))
    broken = logits.clone()
    broken[0, 7], broken[1, 7], broken[2, 7], broken[3] = math.nan, -math.nan, math.inf, -math.inf
    for wishes in ({}, {"top_p": torch.full((6,), 0.9)}, {"top_k": torch.full((6,), 3), "min_p_first": True}):
        drawn = compiled_rows.sample_rows(broken, torch.full((6,), 0.5), **wishes)
        assert drawn[:4].tolist() == [-1] * 4
        assert (drawn[4:] >= 0).all()
    both = compiled_rows.sample_rows(broken, torch.full((6,), 0.5), top_p=torch.full((6,), 0.9))
    assert torch.equal(both[4:], expected[4:])


@pytest.mark.parametrize("vocab_size", [1, 511, 512, 513, 2000])
@pytest.mark.parametrize("place", [0, -1])
def test_a_single_possible_token_is_drawn_wherever_it_stands(vocab_size: int, place: int) -> None:
    logits = torch.full((3, vocab_size), -math.inf)
    logits[:, place] = -5.0
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    for top_p in (1e-9, 0.9, 1 - 1e-7, 1.0):
        drawn = compiled_rows.sample_rows(logits, uniforms, top_p=torch.full((3,), top_p), top_k=torch.full((3,), 5))
        assert drawn.tolist() == [place % vocab_size] * 3


def test_weights_are_exact_down_to_where_they_count_as_zero() -> None:
    logits = np.concatenate([np.linspace(-86.9, 0, 1000), [-87.1, -90, -104, -1e30, -math.inf]]).astype(np.float32)
    weights, sums = np.empty(1005, np.float32), np.empty(2)
    total = kernels.weigh(logits, np.float32(0), weights, sums)
    np.testing.assert_allclose(weights[:1000], np.exp(logits[:1000].astype(np.float64)), rtol=5e-7)
    assert weights[1000:].tolist() == [0.0] * 5
    assert total == pytest.approx(weights.sum(dtype=np.float64), rel=1e-15)
    assert sums.sum() == total


def test_a_token_of_no_weight_is_not_drawn_even_at_zero() -> None:
    logits = torch.tensor([[-math.inf, -90.0, -1e30, 0.0, -90.0]])
    for uniform in (0.0, 1e-300, 1 - 2**-53):
        assert sample_from_uniform(logits, torch.tensor([uniform], dtype=torch.float64)).tolist() == [3]


def test_numba_is_imported_when_a_row_is_looked_at_and_not_before() -> None:
    program = (
        "import sys, torch\n"
        "from folovllm.sampling.sampler import choose_greedily\n"
        "print('numba' in sys.modules, choose_greedily(torch.eye(3)).tolist(), 'numba' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "[0,", "1,", "2]", "True"]


def test_the_likeliest_tokens_of_equal_ones_are_the_first_in_the_vocabulary() -> None:
    logits = (noise(6, 3000) * 2).round()
    logits[5] = logits[5].masked_fill(logits[5] < 6, -math.inf)
    for count in (0, 1, 5, 60, 3000):
        judged = compute_logprobs(logits, torch.zeros(6, dtype=torch.long), count)
        expected = logits.sort(dim=-1, descending=True, stable=True).indices[:, :count]
        assert torch.equal(judged.token_ids[:, 1:], expected)
