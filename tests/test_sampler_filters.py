"""Temperature, top-k, top-p and min-p against HuggingFace's warpers, brute force, and vLLM's rules."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from folovllm.sampling.sampler import (
    SamplingMetadata,
    SamplingRow,
    apply_min_p,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    filter_logits,
)
from folovllm.sampling_params import SamplingParams

pytestmark = pytest.mark.usefixtures("way")

CPU = torch.device("cpu")
ROUNDING = 2e-7
"""Decisions closer than this to their border (in probability) may fall either way in float32."""

SHAPES = [(1500, 6), (1000, 40), (400, 1500), (40, 49152)]


def random_logits(num_rows: int, vocab_size: int, seed: int = 0) -> Tensor:
    """Rows of five kinds in turn, without ties in practice."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_rows, vocab_size, generator=generator)
    logits[0::5] *= 0.05
    logits[1::5] *= 2
    logits[2::5] = logits[2::5] * 2.5 + 20 * (torch.rand(logits[2::5].shape, generator=generator) < 3 / vocab_size)
    logits[3::5] += 8 * (torch.rand(logits[3::5].shape, generator=generator) < 0.5)
    masked = torch.rand(logits[4::5].shape, generator=generator) < 0.7
    masked[:, 0] = False
    logits[4::5] = (logits[4::5] * 3).masked_fill(masked, -math.inf)
    return logits


def column(num_rows: int, value: float) -> Tensor:
    return torch.full((num_rows,), value, dtype=torch.float64)


def kept(logits: Tensor) -> Tensor:
    return logits > -math.inf


def probabilities(row: Tensor) -> np.ndarray:
    weights = np.exp(row.double().numpy() - float(row.max()))
    return weights / weights.sum()


def nucleus_size(ranked: np.ndarray, top_p: float) -> int:
    """How many of the ranked probabilities the smallest set takes that reaches top_p."""
    reaching = np.flatnonzero(np.cumsum(ranked) >= top_p)
    return int(reaching[0]) + 1 if len(reaching) else len(ranked)


def is_on_the_border(probs: np.ndarray, top_p: float) -> bool:
    return bool(np.abs(np.cumsum(np.sort(probs)[::-1]) - top_p).min() < ROUNDING)


def metadata_for(num_rows: int, **params: float) -> SamplingMetadata:
    rows = [SamplingRow(SamplingParams(**params), [0], [], 0.5)] * num_rows  # type: ignore[arg-type]
    return SamplingMetadata.build(rows, 10, CPU)


# HuggingFace's warpers


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 2.0])
def test_temperature_equals_huggingface(shape: tuple[int, int], temperature: float) -> None:
    logits = random_logits(*shape)
    ours = apply_temperature(logits, column(shape[0], temperature).float())
    torch.testing.assert_close(ours, TemperatureLogitsWarper(temperature)(None, logits))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("top_k", [1, 2, 5, 50, 1023, 10**6])
def test_top_k_equals_huggingface(shape: tuple[int, int], top_k: int) -> None:
    logits = random_logits(*shape)
    ours = apply_top_k(logits, torch.full((shape[0],), top_k))
    assert torch.equal(ours, TopKLogitsWarper(top_k)(None, logits))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("top_p", [1e-6, 0.1, 0.5, 0.9, 0.95, 0.999])
def test_top_p_equals_huggingface_and_the_brute_force_minimal_set(shape: tuple[int, int], top_p: float) -> None:
    logits = random_logits(*shape)
    ours = apply_top_p(logits, column(shape[0], top_p))
    theirs = TopPLogitsWarper(top_p)(None, logits)
    decided = 0
    for row in range(shape[0]):
        probs = probabilities(logits[row])
        order = np.argsort(-probs, kind="stable")
        size = int(kept(ours[row]).sum())
        smallest, largest = (nucleus_size(probs[order], top_p + off) for off in (-ROUNDING, ROUNDING))
        assert smallest <= size <= largest, row
        assert set(order[:size]) == set(np.flatnonzero(kept(ours[row]).numpy())), row
        if smallest == largest:
            decided += 1
            assert torch.equal(ours[row], theirs[row]), row
    # Where 49,152 tokens share what is beyond .999, half of the rows have a border within rounding.
    assert decided >= (0.4 if top_p == 0.999 else 0.97) * shape[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("min_p", [1e-4, 0.05, 0.3, 1.0])
def test_min_p_equals_huggingface(shape: tuple[int, int], min_p: float) -> None:
    logits = random_logits(*shape)
    ours = apply_min_p(logits, column(shape[0], min_p).float())
    theirs = MinPLogitsWarper(min_p)(None, logits)
    probs = logits.double().softmax(dim=-1)
    ratio = probs / probs.amax(dim=-1, keepdim=True)
    decided = ((ratio - min_p).abs() > 1e-5 * min_p) | (ratio == 1)
    assert decided.float().mean() > 0.999
    assert torch.equal(kept(ours)[decided], kept(theirs)[decided])
    assert torch.equal(ours[kept(ours)], logits[kept(ours)])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_chain_in_huggingface_order_equals_huggingface(shape: tuple[int, int]) -> None:
    logits = random_logits(*shape)
    metadata = metadata_for(shape[0], temperature=0.8, top_k=30, top_p=0.85, min_p=0.02)
    chain = LogitsProcessorList(
        [TemperatureLogitsWarper(0.8), TopKLogitsWarper(30), TopPLogitsWarper(0.85), MinPLogitsWarper(0.02)]
    )
    ours, theirs = filter_logits(logits, metadata, "huggingface"), chain(None, logits)
    same = (kept(ours) == kept(theirs)).all(dim=-1)
    for row in (~same).nonzero()[:, 0].tolist():
        top = apply_top_k(logits[row : row + 1] / 0.8, torch.tensor([30]))[0]
        assert is_on_the_border(probabilities(top), 0.85), row
    assert same.float().mean() > 0.99
    torch.testing.assert_close(ours[same], theirs[same])


# rows that are special

SPECIAL_ROWS = {
    "all equal": torch.zeros(12),
    "all equal and far away": torch.full((12,), -1e30),
    "all but one masked": torch.full((12,), -math.inf).index_fill(0, torch.tensor([7]), 3.0),
    "half masked": torch.arange(12.0).masked_fill(torch.arange(12) % 2 == 0, -math.inf),
    "huge": torch.tensor([1e30, -1e30] * 6),
    "one huge": torch.zeros(12).index_fill(0, torch.tensor([4]), 1e30),
    "largest floats": torch.tensor([torch.finfo(torch.float32).max, torch.finfo(torch.float32).min] * 6),
    "steep": torch.arange(12.0) * 200,
    "two equal winners": torch.tensor([5.0, 5.0] + [0.0] * 10),
    "negative zeros": torch.tensor([0.0, -0.0] * 6),
}


@pytest.mark.parametrize("name", SPECIAL_ROWS)
def test_special_rows_equal_huggingface_and_never_lose_every_token(name: str) -> None:
    logits = SPECIAL_ROWS[name][None]
    for top_k in (1, 2, 3, 11, 12, 13, 10**9):
        ours = apply_top_k(logits, torch.tensor([top_k]))
        assert torch.equal(ours, TopKLogitsWarper(top_k)(None, logits)), top_k
    for value in (1e-9, 0.33, 0.77, 0.99):
        ours = apply_top_p(logits, column(1, value))
        assert torch.equal(ours, TopPLogitsWarper(value)(None, logits)), value
        assert kept(ours).any()
        ours = apply_min_p(logits, column(1, value).float())
        assert torch.equal(ours, MinPLogitsWarper(value)(None, logits)), value
        assert kept(ours).any()


def test_top_p_on_a_large_vocabulary_of_equal_tokens_keeps_the_right_number() -> None:
    for vocab_size, expected in ((1000, 300), (10_000, 3_000), (49_152, 14_746)):
        assert int(kept(apply_top_p(torch.zeros(1, vocab_size), column(1, 0.3))).sum()) == expected


def test_top_p_keeps_its_double_precision_up_to_the_filter() -> None:
    # In float32, .3 is a little more than .3, and a fourth token of ten equal ones would be needed to reach it.
    assert int(kept(filter_logits(torch.zeros(1, 10), metadata_for(1, top_p=0.3))).sum()) == 3


def test_top_p_keeps_the_token_that_crosses_p() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.15, 0.1, 0.05]]).log()
    assert kept(apply_top_p(logits, column(1, 0.9)))[0].tolist() == [True, True, True, True, False]


def test_top_p_below_the_top_tokens_mass_keeps_the_top_token() -> None:
    logits = torch.tensor([[0.1, 0.6, 0.3]]).log()
    for top_p in (0.5, 0.01, 1e-12, 5e-324):
        assert kept(apply_top_p(logits, column(1, top_p)))[0].tolist() == [False, True, False]


def test_top_k_keeps_all_ties_at_the_kth_value() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0]])
    assert kept(apply_top_k(logits, torch.tensor([2])))[0].tolist() == [True, False, True, True, True, False]


def test_min_p_of_one_keeps_the_best_and_its_equals() -> None:
    logits = torch.tensor([[3.0, 1.0, 3.0, 2.999]])
    assert kept(apply_min_p(logits, column(1, 1.0).float()))[0].tolist() == [True, False, True, False]


def test_rows_that_ask_for_nothing_pass_bit_identical_beside_rows_that_do() -> None:
    logits = random_logits(50, 3000)
    logits[7] = torch.linspace(-300, 0, 3000)  # most of its probabilities are zero in float32
    asks = torch.arange(50) % 2 == 0
    filtered = apply_top_k(logits, torch.where(asks, 3, 0))
    filtered = apply_top_p(filtered, torch.where(asks, 0.5, 1.0).double())
    filtered = apply_min_p(filtered, torch.where(asks, 0.2, 0.0))
    filtered = apply_temperature(filtered, torch.where(asks, 0.3, 1.0))
    assert torch.equal(filtered[~asks].view(torch.int32), logits[~asks].view(torch.int32))
    assert not torch.equal(filtered[asks], logits[asks])


@pytest.mark.parametrize("vocab_size", [12, 3000])
def test_each_row_obeys_its_own_parameters(vocab_size: int) -> None:
    logits = random_logits(60, vocab_size)
    generator = torch.Generator().manual_seed(1)
    top_k = torch.randint(0, vocab_size + 5, (60,), generator=generator)
    top_p = torch.rand(60, generator=generator, dtype=torch.float64).clamp(min=0.01)
    min_p = torch.rand(60, generator=generator)
    together = apply_min_p(apply_top_p(apply_top_k(logits, top_k), top_p), min_p)
    for row in range(60):
        one = slice(row, row + 1)
        alone = apply_min_p(apply_top_p(apply_top_k(logits[one], top_k[one]), top_p[one]), min_p[one])
        assert torch.equal(together[one], alone), row


def test_the_filters_leave_their_input_alone() -> None:
    logits = random_logits(10, 3000)
    before = logits.clone()
    apply_temperature(logits, column(10, 0.5).float())
    apply_top_k(logits, torch.full((10,), 3))
    apply_top_p(logits, column(10, 0.5))
    apply_min_p(logits, column(10, 0.5).float())
    assert torch.equal(logits, before)


@pytest.mark.parametrize("tied", [2, 5, 700, 30_000])
def test_top_p_after_top_k_with_ties_counts_every_tied_token(tied: int) -> None:
    logits = torch.zeros(1, 40_000)
    logits[0, 100 : 100 + tied] = 40.0  # everything else weighs nothing beside them
    filtered = apply_top_p(apply_top_k(logits, torch.tensor([2])), column(1, 0.499))
    assert int(kept(filtered).sum()) == math.ceil(0.499 * tied)
    assert int(filtered[0, 100 : 100 + tied].gt(-math.inf).sum()) == math.ceil(0.499 * tied)


# vLLM's order


def follow_vllms_rules(row: np.ndarray, temperature: float, min_p: float, top_k: int, top_p: float) -> np.ndarray:
    """Which tokens stay: min-p, then top-k with ties, then top-p on what is left, ascending."""
    with np.errstate(over="ignore"):
        scaled = row.astype(np.float64) / temperature
    probs = np.exp(scaled - scaled.max())
    alive = probs >= min_p * probs.max()
    alive &= scaled > -np.inf
    if 0 < top_k < alive.sum():
        alive &= scaled >= np.sort(scaled[alive])[-top_k]
    rest = np.where(alive, probs, 0.0)
    rest /= rest.sum()
    removed = 0.0
    for token_id in sorted(np.flatnonzero(alive), key=lambda i: rest[i]):
        removed += rest[token_id]
        if removed <= 1 - top_p and alive.sum() > 1:
            alive[token_id] = False
    return alive


def test_vllms_order_follows_its_rules_row_by_row() -> None:
    generator = np.random.default_rng(0)
    wrong = 0
    for vocab_size in (6, 40, 1500):
        logits = random_logits(300, vocab_size, seed=vocab_size)
        for row in range(300):
            temperature, top_p = generator.uniform(0.3, 1.7), generator.uniform(0.05, 0.99)
            min_p, top_k = generator.choice([0.0, generator.uniform(0, 0.5)]), int(generator.integers(0, 30))
            metadata = metadata_for(1, temperature=temperature, min_p=min_p, top_k=top_k, top_p=top_p)
            ours = kept(filter_logits(logits[row : row + 1], metadata, "vllm"))[0].numpy()
            wrong += not np.array_equal(ours, follow_vllms_rules(logits[row].numpy(), temperature, min_p, top_k, top_p))
    assert wrong <= 2, "only a decision within rounding of its border may differ"


def test_the_two_orders_give_two_tokens_and_three() -> None:
    logits = torch.tensor([[0.4, 0.2, 0.15, 0.1, 0.08, 0.07]]).log()
    metadata = metadata_for(1, min_p=0.3, top_p=0.7)
    assert int(kept(filter_logits(logits, metadata, "vllm")).sum()) == 2
    assert int(kept(filter_logits(logits, metadata, "huggingface")).sum()) == 3


def test_every_filter_works_on_what_the_one_before_left() -> None:
    logits = torch.tensor([[0.3, 0.25, 0.2, 0.15, 0.1]]).log()
    # After top-k 2 the first token alone holds .3 / .55 = .545 of what is left.
    metadata = metadata_for(1, top_k=2, top_p=0.54)
    for order in ("huggingface", "vllm"):
        assert kept(filter_logits(logits, metadata, order))[0].tolist() == [True, False, False, False, False]
