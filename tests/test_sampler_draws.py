"""Draws against the exact distribution (chi-square), batch independence, errors, and which stages run."""

import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import folovllm.sampling.sampler as sampler_module
from folovllm.sampling.sampler import (
    Sampler,
    SamplingMetadata,
    SamplingRow,
    apply_top_p,
    choose_greedily,
    filter_logits,
    sample_from_uniform,
)
from folovllm.sampling_params import SamplingParams
from tests.chi_square import p_value

CPU = torch.device("cpu")
LARGEST_UNIFORM = 1 - 2**-53
"""The largest number that ``random.random()`` can return."""


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Let PyTorch split work over threads as it likes, as on a learner's machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def row(uniform: float = 0.5, **params: Any) -> SamplingRow:
    return SamplingRow(SamplingParams(**params), [0], [], uniform)


def sample(logits: Tensor, *rows: SamplingRow, order: Any = "huggingface") -> list[int]:
    metadata = SamplingMetadata.build(rows, logits.shape[-1], CPU)
    return Sampler(order)(logits, metadata).token_ids.tolist()


def random_row(rng: random.Random, vocab_size: int) -> SamplingRow:
    """A row that asks for anything, greedy or not."""

    def maybe(value: Any, otherwise: Any) -> Any:
        return value if rng.random() < 0.4 else otherwise

    params = SamplingParams(
        temperature=maybe(0.0, rng.choice([0.5, 1.0, 1.7])),
        top_k=maybe(rng.choice([1, 5, 40, vocab_size * 2]), 0),
        top_p=maybe(rng.uniform(0.05, 0.999), 1.0),
        min_p=maybe(rng.uniform(0, 0.3), 0.0),
        repetition_penalty=maybe(rng.uniform(0.8, 1.5), 1.0),
        frequency_penalty=maybe(rng.uniform(-1, 1), 0.0),
        presence_penalty=maybe(rng.uniform(-1, 1), 0.0),
        logit_bias=maybe({rng.randrange(vocab_size): rng.uniform(-5, 5)}, None),
        allowed_token_ids=maybe(list(range(0, vocab_size, 3)), None),
        min_tokens=maybe(10, 0),
        logprobs=maybe(3, None),
    )
    prompt = [rng.randrange(vocab_size) for _ in range(rng.randrange(1, 30))]
    output = [rng.randrange(vocab_size) for _ in range(rng.randrange(30))]
    return SamplingRow(params, prompt, output, rng.random(), frozenset({2}), [[rng.randrange(vocab_size)]])


# the law of the draws


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.6, "top_k": 6},
        {"top_p": 0.8},
        {"min_p": 0.15},
        {"temperature": 0.9, "top_k": 8, "top_p": 0.9, "min_p": 0.05},
    ],
)
@pytest.mark.parametrize("order", ["huggingface", "vllm"])
def test_draws_follow_the_filtered_distribution(params: dict[str, Any], order: Any) -> None:
    num_draws = 100_000
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3)) * 1.5
    metadata = SamplingMetadata.build([row(**params)], 12, CPU)
    filtered = filter_logits(logits, metadata, order)
    rng = random.Random(7)
    uniforms = torch.tensor([rng.random() for _ in range(num_draws)], dtype=torch.float64)
    counts = sample_from_uniform(filtered.expand(num_draws, -1), uniforms).bincount(minlength=12).numpy()
    expected = filtered[0].double().softmax(dim=-1).numpy() * num_draws
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert possible.sum() > 1
    assert p_value(counts[possible], expected[possible] * num_draws / expected.sum()) > 1e-3


@pytest.mark.usefixtures("way")
def test_the_sampler_draws_each_rows_own_distribution() -> None:
    num_draws = 20_000
    rng = random.Random(11)
    tempers = (0.5, 1.0, 2.0)
    rows = [row(rng.random(), temperature=tempers[i % 3]) for i in range(num_draws * 3)]
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    drawn = torch.tensor(sample(logits.expand(len(rows), -1), *rows))
    for i, temperature in enumerate(tempers):
        expected = (logits.double() / temperature).softmax(dim=-1).numpy() * num_draws
        assert p_value(drawn[i::3].bincount(minlength=4).numpy(), expected) > 1e-3


def test_a_wrong_distribution_fails_the_chi_square() -> None:
    """The test above can fail: the same draws are judged by a slightly different law."""
    rng = random.Random(7)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    uniforms = torch.tensor([rng.random() for _ in range(100_000)], dtype=torch.float64)
    counts = sample_from_uniform(logits.expand(100_000, -1), uniforms).bincount(minlength=4).numpy()
    wrong = (logits[0].double() / 1.03).softmax(dim=-1).numpy() * 100_000
    assert p_value(counts, wrong) < 1e-6


@pytest.mark.usefixtures("way")
def test_a_draw_inverts_the_cumulative_distribution() -> None:
    logits = torch.tensor([[0.25, 0.5, 0.0, 0.25]]).log()
    borders = [(0.0, 0), (0.24, 0), (0.26, 1), (0.74, 1), (0.76, 3), (LARGEST_UNIFORM, 3)]
    uniforms = torch.tensor([u for u, _ in borders], dtype=torch.float64)
    drawn = sample_from_uniform(logits.expand(len(borders), -1), uniforms)
    assert drawn.tolist() == [token_id for _, token_id in borders]


def test_at_the_ends_of_the_unit_interval_no_impossible_token_is_drawn() -> None:
    logits = torch.full((2, 9), -math.inf)
    logits[:, 3:6] = torch.tensor([1.0, 2.0, -200.0])  # token 5 is possible in name only: its weight is 0 in float32
    drawn = sample_from_uniform(logits, torch.tensor([0.0, LARGEST_UNIFORM], dtype=torch.float64))
    assert drawn.tolist() == [3, 4]


@pytest.mark.usefixtures("way")
def test_rounding_never_draws_past_the_last_possible_token() -> None:
    generator = torch.Generator().manual_seed(0)
    for vocab_size in (4, 17, 1000):
        logits = torch.randn(2000, vocab_size, generator=generator) * 3
        logits[:, vocab_size // 2 :] = -math.inf
        logits[:, 0] = -math.inf
        for uniform in (0.0, 1e-300, LARGEST_UNIFORM):
            drawn = sample_from_uniform(logits, torch.full((2000,), uniform, dtype=torch.float64))
            assert (drawn > 0).all()
            assert (drawn < vocab_size // 2).all()


@pytest.mark.usefixtures("way")
def test_single_precision_uniforms_that_round_to_one_still_draw_a_possible_token() -> None:
    logits = torch.tensor([[1.0, 2.0, -math.inf]])
    assert sample_from_uniform(logits, torch.tensor([LARGEST_UNIFORM], dtype=torch.float32)).tolist() == [1]


@pytest.mark.usefixtures("way")
def test_unlikely_tokens_of_a_large_vocabulary_get_their_share() -> None:
    # Half of the mass lies on one token, half on 49,151 others: float32 sums would lose some of these.
    logits = torch.zeros(1, 49_152)
    logits[0, 0] = math.log(49_151)
    places = torch.tensor([0.25, 0.5 + 0.5 * 10_000.5 / 49_151, 0.5 + 0.5 * 40_000.5 / 49_151], dtype=torch.float64)
    drawn = sample_from_uniform(logits.expand(3, -1), places)
    assert drawn[0] == 0
    assert (drawn[1:] - torch.tensor([10_001, 40_001])).abs().max() <= 1


# greedy


def test_greedy_takes_the_first_of_equal_maxima() -> None:
    assert choose_greedily(torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0]])).tolist() == [1, 0]


@pytest.mark.usefixtures("way")
def test_greedy_and_random_rows_share_a_batch() -> None:
    logits = torch.randn(40, 3000, generator=torch.Generator().manual_seed(0))
    rng = random.Random(0)
    rows = [row(rng.random(), temperature=0.0 if i % 3 == 0 else 1.2, top_p=0.9, top_k=50) for i in range(40)]
    drawn = sample(logits, *rows)
    best = logits.argmax(dim=-1).tolist()
    assert drawn[::3] == best[::3]
    assert drawn != best
    top = logits.topk(50).indices.tolist()
    assert all(token_id in top[i] for i, token_id in enumerate(drawn))


def test_greedy_rows_of_a_mixed_batch_obey_penalties_and_bans() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0], [5.0, 4.0, 3.0], [5.0, 4.0, 3.0]])
    rows = [row(temperature=0.0, logit_bias={2: 10.0}), row(0.0), row(temperature=0.0, allowed_token_ids=[1, 2])]
    assert sample(logits, *rows) == [2, 0, 1]


# a result depends on nothing but its row


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("order", ["huggingface", "vllm"])
@pytest.mark.parametrize(("vocab_size", "num_rows"), [(7, 300), (50, 200), (3001, 60), (49_152, 12)])
def test_every_row_alone_equals_the_row_in_any_batch(vocab_size: int, num_rows: int, order: Any) -> None:
    rng = random.Random(vocab_size)
    rows = [random_row(rng, vocab_size) for _ in range(num_rows)]
    logits = torch.randn(num_rows, vocab_size, generator=torch.Generator().manual_seed(0)) * 4
    logits[::4] = logits[::4].bfloat16().float()  # with many ties, as a bfloat16 model gives them
    shuffled = rng.sample(range(num_rows), num_rows)
    together = Sampler(order)(logits, SamplingMetadata.build(rows, vocab_size, CPU))
    mixed = sample(logits[shuffled], *[rows[i] for i in shuffled], order=order)
    assert mixed == together.token_ids[shuffled].tolist()
    assert together.logprobs is not None
    for i in range(num_rows):
        alone = Sampler(order)(logits[i : i + 1], SamplingMetadata.build(rows[i : i + 1], vocab_size, CPU))
        assert alone.token_ids[0] == together.token_ids[i], i
        if alone.logprobs is not None:
            assert torch.equal(alone.logprobs.logprobs[0], together.logprobs.logprobs[i])
            assert torch.equal(alone.logprobs.token_ids[0], together.logprobs.token_ids[i])


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("vocab_size", [50, 3001, 49_152])
def test_the_filtered_logits_of_a_row_are_bit_identical_in_any_batch(vocab_size: int) -> None:
    rng = random.Random(0)
    rows = []
    while len(rows) < 20:
        candidate = random_row(rng, vocab_size)
        if candidate.params.temperature > 0:
            rows.append(candidate)
    logits = torch.randn(20, vocab_size, generator=torch.Generator().manual_seed(1)) * 4
    logits[::2] = logits[::2].bfloat16().float()
    together = filter_logits(logits, SamplingMetadata.build(rows, vocab_size, CPU))
    for i in range(20):
        alone = filter_logits(logits[i : i + 1], SamplingMetadata.build(rows[i : i + 1], vocab_size, CPU))
        assert torch.equal(alone[0].view(torch.int32), together[i].view(torch.int32)), i


# rows without an answer


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("filters", [{}, {"top_k": 2, "top_p": 0.5, "min_p": 0.1}])
@pytest.mark.parametrize("vocab_size", [5, 2000])
def test_nan_and_positive_infinity_are_an_error_and_never_a_token(
    temperature: float, broken: float, filters: dict[str, Any], vocab_size: int
) -> None:
    logits = torch.randn(3, vocab_size, generator=torch.Generator().manual_seed(0))
    logits[1, 3] = broken
    for order in ("huggingface", "vllm"):
        with pytest.raises(ValueError, match=r"NaN or \+inf: the model overflowed"):
            sample(logits, *[row(temperature=temperature, **filters)] * 3, order=order)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_constraints_that_leave_no_token_are_an_error(temperature: float) -> None:
    nothing = SamplingRow(
        SamplingParams(temperature=temperature, allowed_token_ids=[3], min_tokens=2, top_k=2, top_p=0.5, min_p=0.1),
        [0], [], 0.5, frozenset({3}),
    )  # fmt: skip
    with pytest.raises(ValueError, match="no token is left to choose from"):
        sample(torch.zeros(2, 5), row(), nothing)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("temperature", [0.0, 0.01, 1.0, 2.0])
@pytest.mark.parametrize("filters", [{}, {"top_k": 3, "top_p": 0.5, "min_p": 0.1}])
def test_extreme_but_finite_logits_give_the_extreme_token(temperature: float, filters: dict[str, Any]) -> None:
    logits = torch.tensor([[-1e30, 0.0, 1e30, -math.inf], [-1e30, -2e30, -math.inf, -math.inf]])
    assert sample(logits, *[row(0.99, temperature=temperature, **filters)] * 2) == [2, 0]


# what nobody asks for does not run

STAGES = {
    "apply_allowed_token_ids": {"allowed_token_ids": [1, 2]},
    "apply_bans": {"stop_token_ids": [3], "min_tokens": 1},
    "apply_logit_bias": {"logit_bias": {1: 1.0}},
    "apply_penalties": {"presence_penalty": 1.0},
    "apply_temperature": {"temperature": 0.5},
    "apply_top_k": {"top_k": 2},
    "apply_top_p": {"top_p": 0.5},
    "apply_min_p": {"min_p": 0.5},
    "sample_from_uniform": {},
    "choose_greedily": {"temperature": 0.0},
    "compute_logprobs": {"logprobs": 0},
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the stages that the sampler runs, in order, where no kernel does several at once."""
    made: list[str] = []

    def spy(name: str, stage: Any) -> Any:
        return lambda *args, **named: made.append(name) or stage(*args, **named)

    monkeypatch.setattr(sampler_module, "has_kernels", lambda logits: False)

    for name in STAGES:
        monkeypatch.setattr(sampler_module, name, spy(name, getattr(sampler_module, name)))
    return made


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_if_a_row_asks_and_otherwise_not(stage: str, calls: list[str]) -> None:
    sample(torch.zeros(2, 5), row(**STAGES[stage]), row(**STAGES[stage]))
    end = {"choose_greedily": [], "sample_from_uniform": []}.get(stage, ["sample_from_uniform"])
    assert sorted(calls) == sorted([stage, *end])


def test_the_stages_run_in_the_order_asked_for(calls: list[str]) -> None:
    everything: dict[str, Any] = {}
    for params in STAGES.values():
        everything.update(params)
    everything["temperature"] = 0.5
    head = ["apply_allowed_token_ids", "apply_bans", "apply_logit_bias", "apply_penalties"]
    tail = ["sample_from_uniform", "compute_logprobs"]
    sample(torch.zeros(1, 5), row(**everything), order="huggingface")
    assert calls == [*head, "apply_temperature", "apply_top_k", "apply_top_p", "apply_min_p", *tail]
    calls.clear()
    sample(torch.zeros(1, 5), row(**everything), order="vllm")
    assert calls == [*head, "apply_temperature", "apply_min_p", "apply_top_k", "apply_top_p", *tail]


def test_filters_are_run_on_random_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(sampler_module, "has_kernels", lambda logits: False)
    monkeypatch.setattr(sampler_module, "apply_top_p", lambda x, p: shapes.append(tuple(x.shape)) or apply_top_p(x, p))
    sample(torch.zeros(3, 5), row(temperature=0.0), row(top_p=0.5), row(temperature=0.0))
    assert shapes == [(1, 5)]


@pytest.mark.usefixtures("way")
def test_uniforms_keep_double_precision_up_to_the_draw() -> None:
    # Two uniforms that float32 cannot tell apart, on either side of a border.
    border = float(np.float64(1) / 3)
    logits = torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64).log().float()
    upper = float(logits.softmax(dim=-1)[0, 0].double() / logits.softmax(dim=-1).double().sum())
    assert abs(upper - border) < 1e-6
    assert sample(logits.expand(2, -1), row(upper - 1e-12), row(upper + 1e-12)) == [0, 1]


@pytest.mark.usefixtures("way")
def test_a_subclass_refines_the_drawn_rows_and_sees_whose_they_are():
    class LeastLikely(Sampler):
        def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
            assert len(logits) == len(params)
            least = logits.masked_fill(logits.isneginf(), math.inf).argmin(dim=-1, keepdim=True)
            turned = torch.full_like(logits, -math.inf).scatter_(1, least, 0.0)
            return torch.where(torch.tensor([[each.max_tokens == 99] for each in params]), turned, logits)

    logits = torch.arange(4000.0).div(100).repeat(4, 1)
    rows = [row(temperature=0, max_tokens=99), row(max_tokens=99, top_k=3), row(top_k=1), row(max_tokens=99)]
    metadata = SamplingMetadata.build(rows, 4000, CPU)
    assert LeastLikely()(logits, metadata).token_ids.tolist() == [3999, 3997, 3999, 0]
