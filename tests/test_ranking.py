"""Partial selection, and the filters and draws that rest on it, against brute force in NumPy and plain Python."""

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import folovllm.sampling.sampler as sampler_module
from folovllm.sampling import nucleus
from folovllm.sampling.ranking import find_candidates, is_small, largest, largest_values, sort_values
from folovllm.sampling.sampler import (
    Sampler,
    SamplingMetadata,
    SamplingRow,
    apply_top_k,
    apply_top_p,
    filter_in_parts,
    filter_logits,
    sample_from_uniform,
)
from folovllm.sampling_params import SamplingParams

CPU = torch.device("cpu")
USUAL = 512
"""How many of the likeliest tokens top-p looks at before it sorts all."""

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


# the largest values


@pytest.mark.parametrize("kind", ["noise", "ties", "few values", "masked", "falling", "rising"])
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 100, 1000, 1007, 4096])
def test_the_largest_equal_those_of_a_sort(width: int, kind: str) -> None:
    values = noise(7, width)
    if kind == "ties":
        values = with_ties(values)
    elif kind == "few values":
        values = values.round()
    elif kind == "masked":
        values = values.masked_fill(values < 1.5, -math.inf)
    elif kind != "noise":
        values = values.sort(dim=-1, descending=kind == "falling").values
    expected = [sorted(row, reverse=True) for row in values.tolist()]
    assert sort_values(values).tolist() == expected
    for count in sorted({1, 2, width // 40 + 1, width // 16 + 1, width // 3 + 1, width}):
        if count > width:
            continue
        found, columns = largest(values, count)
        assert found.tolist() == [row[:count] for row in expected], count
        assert torch.equal(values.gather(1, columns), found)
        assert all(len(set(row)) == count for row in columns.tolist())
        assert largest_values(values, count).tolist() == found.tolist()


@pytest.mark.parametrize("stride", [1, 8, 125, 126])
def test_the_largest_are_found_wherever_they_stand_together(stride: int) -> None:
    width = 1007
    for first in range(0, width - 7 * stride, 53):
        values = noise(1, width).clamp(max=5)
        values[0, first : first + 8 * stride : stride] = torch.arange(10.0, 18.0)[: len(range(first, width, stride))]
        found, columns = largest(values, 8)
        assert found.tolist() == [list(np.sort(values[0].numpy())[:-9:-1])]
        assert sorted(columns[0].tolist()) == list(range(first, first + 8 * stride, stride))[:8]


def test_nan_counts_as_the_largest() -> None:
    values = noise(2, 1000)
    values[0, 77], values[0, 78] = math.nan, math.inf
    for found in (largest(values, 3)[0], sort_values(values)[:, :3]):
        assert math.isnan(found[0, 0])
        assert found[0, 1] == math.inf
        assert found[1].tolist() == values[1].topk(3).values.tolist()


def test_bfloat16_values_are_sorted_too() -> None:
    values = noise(3, 500).bfloat16()
    assert sort_values(values).dtype == torch.bfloat16
    assert sort_values(values).tolist() == [sorted(row, reverse=True) for row in values.tolist()]


# the candidates of a top-k


@pytest.mark.parametrize(("rounding", "all_decided"), [(1, False), (4, False), (10_000, True)])
def test_no_token_outside_the_candidates_could_pass_the_top_k(rounding: int, all_decided: bool) -> None:
    num_rows, vocab_size = 200, 3001
    logits = (noise(num_rows, vocab_size) * rounding).round() / rounding
    logits[::3] = logits[::3].masked_fill(noise(*logits[::3].shape, seed=1) < 2, -math.inf)
    rng = random.Random(0)
    top_k = torch.tensor([rng.randrange(1, 150) for _ in range(num_rows)])
    assert is_small(top_k, vocab_size).all()
    rows, token_ids = find_candidates(logits, top_k)
    assert (len(rows) == num_rows) == all_decided, "many ties leave rows undecided, and nothing else does"
    assert len(rows) > num_rows / 4
    for row, inside in zip(rows.tolist(), token_ids.tolist(), strict=True):
        assert inside == sorted(set(inside))
        border = sorted(logits[row].tolist())[-int(top_k[row])]
        outside = np.delete(logits[row].numpy(), inside)
        assert (outside < border).all() or np.isneginf(outside).all()


@pytest.mark.parametrize(("num_ties", "decided"), [(1, True), (32, True), (33, False), (34, False), (2000, False)])
def test_ties_at_the_kth_value_all_stay_whether_there_is_room_or_not(num_ties: int, decided: bool) -> None:
    logits = noise(1, 3000).clamp(max=3)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(5))
    logits[0, order[:4]] = torch.tensor([10.0, 9.0, 8.0, 7.0])
    tied = order[4 : 4 + num_ties]
    logits[0, tied] = 5.0
    expected = sorted(order[: 4 + num_ties].tolist())
    metadata = metadata_for(SamplingParams(top_k=5, min_p=0.001))
    # 5 + 32 tokens are looked at: the 4 best, and 33 tied ones fill the list to its end.
    for order_name in ORDERS:
        [part] = filter_in_parts(logits, metadata, order_name)
        assert (part.token_ids is not None) == decided
        assert (filter_logits(logits, metadata, order_name)[0] > -math.inf).nonzero()[:, 0].tolist() == expected


def test_tokens_that_the_temperature_makes_equal_are_ties() -> None:
    # The smallest float32 numbers, halved: 40 and 39 of them both round to 20.
    logits = torch.full((1, 3000), -1.0)
    logits[0, :40] = torch.arange(1, 41) * 2.0**-149
    filtered = filter_logits(logits, metadata_for(SamplingParams(temperature=2.0, top_k=1)))
    assert (filtered[0] > -math.inf).nonzero()[:, 0].tolist() == [38, 39]


def test_a_top_k_larger_than_the_candidates_goes_whole() -> None:
    logits = noise(4, 3000)
    params = [SamplingParams(top_k=k) for k in (5, 155, 156, 2000)]
    parts = list(filter_in_parts(logits, metadata_for(*params), "huggingface"))
    assert [(part.rows.tolist(), part.token_ids is None) for part in parts] == [([0, 1], False), ([2, 3], True)]
    filtered = filter_logits(logits, metadata_for(*params))
    assert (filtered > -math.inf).sum(dim=-1).tolist() == [5, 155, 156, 2000]
    for k in (185, 186, 187, 188, 189, 1000, 2999):
        kept = apply_top_k(logits, torch.full((4,), k)) > -math.inf
        assert kept.tolist() == (logits >= logits.sort().values[:, -k, None]).tolist()


# the border of the nucleus


def slowly_falling(vocab_size: int = 5000) -> tuple[Tensor, Tensor]:
    """Return logits whose tokens differ little, [1, vocab], and their ids, likeliest first."""
    ranked = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(3))
    logits = torch.empty(1, vocab_size)
    logits[0, ranked] = -0.001 * torch.arange(vocab_size)
    return logits, ranked


def sorted_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how many rows each full sort takes."""
    seen: list[int] = []
    original = nucleus.sort_values
    monkeypatch.setattr(nucleus, "sort_values", lambda x: seen.append(len(x)) or original(x))
    return seen


@pytest.mark.parametrize("size", [1, 2, USUAL - 2, USUAL - 1, USUAL, USUAL + 1, USUAL + 2, 4000, 5000])
def test_a_nucleus_that_ends_near_the_last_candidate_has_the_right_size(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits, ranked = slowly_falling()
    weights = logits[0, ranked].double().exp()
    reached = weights.cumsum(0) / weights.sum()
    seen = sorted_rows(monkeypatch)
    # Half-way between the masses of size - 1 tokens and of size tokens.
    top_p = float(reached[size - 1] - weights[size - 1] / weights.sum() / 2)
    kept = apply_top_p(logits, torch.tensor([top_p], dtype=torch.float64))[0] > -math.inf
    assert sorted(ranked[:size].tolist()) == kept.nonzero()[:, 0].tolist()
    assert seen == ([] if size < USUAL else [1]), "a list that ends with the nucleus cannot tell of ties beyond it"


@pytest.mark.parametrize("above", [0, 3, 200, USUAL - 10, USUAL - 1, USUAL, 300])
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


@pytest.mark.parametrize("size", [1, 128, USUAL - 1, USUAL, USUAL + 1, 1023])
def test_a_mass_that_equals_p_exactly_is_enough(size: int) -> None:
    # 1024 equal tokens and p = size / 1024: every sum is exact.
    logits = torch.full((1, 5000), -math.inf)
    tokens = torch.randperm(5000, generator=torch.Generator().manual_seed(4))[:1024].sort().values
    logits[0, tokens] = 2.5
    kept = apply_top_p(logits, torch.tensor([size / 1024], dtype=torch.float64))[0] > -math.inf
    assert kept.nonzero()[:, 0].tolist() == tokens[-size:].tolist()


@pytest.mark.parametrize("spread", [0.0, 1e-6, 0.01, 1.0])
def test_flat_rows_are_sorted_and_keep_the_minimal_set(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = noise(3, 20_000) * spread
    seen = sorted_rows(monkeypatch)
    filtered = apply_top_p(logits, torch.tensor([0.2, 0.5, 0.9001], dtype=torch.float64))
    assert seen == [3]
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
def test_most_rows_with_a_top_p_are_left_as_few_tokens(order: Any) -> None:
    logits = noise(4, 5000) * torch.tensor([[4.0], [4.0], [0.1], [4.0]])
    params = [SamplingParams(top_p=top_p) for top_p in (0.9, 1.0, 0.9, 0.5)]
    parts = {tuple(part.rows.tolist()): part for part in filter_in_parts(logits, metadata_for(*params), order)}
    assert {rows: part.token_ids is None for rows, part in parts.items()} == {(0, 3): False, (1,): True, (2,): True}
    filtered = filter_logits(logits, metadata_for(*params), order)
    for row, place in ((0, 0), (3, 1)):
        few = parts[0, 3]
        assert few.token_ids is not None
        assert few.token_ids[place].tolist() == sorted(set(few.token_ids[place].tolist()))
        kept = few.token_ids[place][few.logits[place] > -math.inf]
        assert kept.tolist() == (filtered[row] > -math.inf).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("vocab_size", [1, 9, 511, 512, 513, 3001, 49_152, 100_003])
def test_a_rows_weights_add_up_to_the_same_whatever_stands_beside_it(vocab_size: int) -> None:
    weights = noise(40, vocab_size).exp()
    together = nucleus._add_up(weights)
    assert torch.equal(torch.cat([nucleus._add_up(row[None]) for row in weights]), together)
    assert torch.equal(torch.cat([nucleus._add_up(part) for part in weights.split(7)]), together)
    torch.testing.assert_close(together[:, 0], weights.double().sum(dim=-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_candidates_give_the_same_bits_as_whole_rows(order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    params = [random_params(rng, 300) for _ in range(80)]
    logits = with_ties(noise(80, 5000) * 4)
    metadata = metadata_for(*params)
    parts = list(filter_in_parts(logits, metadata, order))
    assert {part.token_ids is None for part in parts} == {True, False}
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(80))
    fast, drawn = filter_logits(logits, metadata, order), Sampler(order)(logits, metadata).token_ids
    monkeypatch.setattr(sampler_module, "is_small", lambda top_k, _: torch.zeros_like(top_k, dtype=torch.bool))
    monkeypatch.setattr(nucleus, "_USUAL_SIZE", 1)  # of one token nobody knows whether others are as likely
    assert {part.token_ids is None for part in filter_in_parts(logits, metadata, order)} == {True}
    for at_once in (1, 5000 * 7, 1 << 20):
        monkeypatch.setattr(sampler_module, "_LOGITS_AT_ONCE", at_once)
        assert torch.equal(filter_logits(logits, metadata, order).view(torch.int32), fast.view(torch.int32))
        assert torch.equal(Sampler(order)(logits, metadata).token_ids, drawn)


def test_weights_are_exact_down_to_where_they_count_as_zero() -> None:
    logits = torch.cat([torch.linspace(-86.9, 0, 1000), torch.tensor([-87.1, -90, -104, -1e30, -math.inf])])[None]
    weights = nucleus.weigh(logits, logits.amax(dim=-1, keepdim=True))[0].double().numpy()
    np.testing.assert_allclose(weights[:1000], np.exp(logits[0, :1000].double().numpy()), rtol=2e-7)
    assert weights[1000:].tolist() == [0.0] * 5


def test_a_token_of_no_weight_is_not_drawn_even_at_zero() -> None:
    logits = torch.tensor([[-math.inf, -90.0, -1e30, 0.0, -90.0]])
    for uniform in (0.0, 1e-300, 1 - 2**-53):
        assert sample_from_uniform(logits, torch.tensor([uniform], dtype=torch.float64)).tolist() == [3]
