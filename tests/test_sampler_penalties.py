"""What changes single tokens' logits, against HuggingFace's processors and a reference written out in loops."""

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from folovllm.sampling.logits_processors import (
    Allowed,
    Biases,
    Penalties,
    apply_allowed_token_ids,
    apply_bans,
    apply_logit_bias,
    apply_penalties,
    banned_by_bad_words,
    find_places,
)
from folovllm.sampling.sampler import Sampler, SamplingMetadata, SamplingRow, adjust_logits
from folovllm.sampling_params import SamplingParams

VOCAB_SIZE = 30
CPU = torch.device("cpu")


def random_logits(num_rows: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 4


def random_tokens(num_rows: int, longest: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randrange(longest + 1))] for _ in range(num_rows)]


def adjust(logits: Tensor, *rows: SamplingRow) -> Tensor:
    return changed(logits, adjust_logits, SamplingMetadata.build(rows, VOCAB_SIZE, CPU))


def changed(logits: Tensor, change: Callable[..., None], *arguments: Any) -> Tensor:
    copy = logits.clone()
    change(copy, *arguments)
    return copy


def row(
    prompt: tuple[int, ...] = (0,),
    output: tuple[int, ...] = (),
    eos: tuple[int, ...] = (),
    bad_words: tuple[list[int], ...] = (),
    **params: object,
) -> SamplingRow:
    return SamplingRow(SamplingParams(**params), prompt, output, 0.5, frozenset(eos), bad_words)  # type: ignore[arg-type]


# penalties


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.3, 20.0])
def test_repetition_penalty_equals_huggingface_over_prompt_and_output(penalty: float) -> None:
    logits, prompts, outputs = random_logits(200), random_tokens(200, 20, 1), random_tokens(200, 20, 2)
    zeros = torch.zeros(200)
    penalties = Penalties.of(prompts, outputs, VOCAB_SIZE, torch.full((200,), penalty), zeros, zeros)
    ours = changed(logits, apply_penalties, penalties)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    for i in range(200):
        seen = torch.tensor([prompts[i] + outputs[i]], dtype=torch.long)
        torch.testing.assert_close(ours[i : i + 1], processor(seen, logits[i : i + 1]), rtol=1e-6, atol=0)


def test_all_penalties_together_equal_the_rule_written_out() -> None:
    logits, prompts, outputs = random_logits(200), random_tokens(200, 20, 3), random_tokens(200, 40, 4)
    generator = torch.Generator().manual_seed(5)
    repetition = torch.rand(200, generator=generator) * 2 + 0.1
    frequency, presence = (torch.rand(2, 200, generator=generator) - 0.5) * 4
    penalties = Penalties.of(prompts, outputs, VOCAB_SIZE, repetition, frequency, presence)
    ours = changed(logits, apply_penalties, penalties)
    for i in range(200):
        for token_id in range(VOCAB_SIZE):
            expected = float(logits[i, token_id])
            if token_id in prompts[i] or token_id in outputs[i]:
                expected = expected / float(repetition[i]) if expected > 0 else expected * float(repetition[i])
            expected -= float(frequency[i]) * outputs[i].count(token_id)
            expected -= float(presence[i]) * (token_id in outputs[i])
            assert float(ours[i, token_id]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_frequency_and_presence_ignore_the_prompt() -> None:
    logits = random_logits(1)
    assert torch.equal(adjust(logits, row(prompt=(3, 4), frequency_penalty=1.0, presence_penalty=1.0)), logits)


def test_a_neighbours_penalties_leave_a_row_bit_identical() -> None:
    logits = random_logits(3)
    logits[1, :3] = torch.tensor([-0.0, -math.inf, 1e-40])
    asks = row(prompt=(0, 1, 2), output=(0, 1, 2), repetition_penalty=1.7, frequency_penalty=0.3)
    silent = row(prompt=(0, 1, 2), output=(0, 1, 2))
    ours = adjust(logits, asks, silent, asks)
    assert torch.equal(ours[1].view(torch.int32), logits[1].view(torch.int32))
    assert not torch.equal(ours[0], logits[0])


@pytest.mark.parametrize("penalty", [1e-300, 1e-38, 1e38, 1e300])
def test_absurd_repetition_penalties_make_no_nan_and_no_positive_infinity(penalty: float) -> None:
    logits = torch.tensor([[5.0, -5.0, 0.0, -math.inf] + [1.0] * (VOCAB_SIZE - 4)])
    ours = adjust(logits, row(prompt=(0, 1, 2, 3), repetition_penalty=penalty))
    assert not torch.isnan(ours).any()
    assert not torch.isposinf(ours).any()
    metadata = SamplingMetadata.build([row(prompt=(0, 1, 2, 3), repetition_penalty=penalty)], VOCAB_SIZE, CPU)
    assert 0 <= int(Sampler()(logits, metadata).token_ids) < VOCAB_SIZE


# bans


def test_bad_words_equal_huggingface() -> None:
    rng = random.Random(0)
    for case in range(300):
        words = [[rng.randrange(4) for _ in range(rng.randrange(1, 4))] for _ in range(rng.randrange(1, 4))]
        output = [rng.randrange(4) for _ in range(rng.randrange(0, 6))]
        logits = random_logits(1, seed=case)
        ours = adjust(logits, row(output=tuple(output), bad_words=tuple(words)))
        theirs = NoBadWordsLogitsProcessor(words)(torch.tensor([output], dtype=torch.long), logits)
        assert torch.equal(ours, theirs), (words, output)


def test_a_bad_word_begun_in_the_prompt_is_not_seen() -> None:
    assert banned_by_bad_words([[5, 6]], []) == []
    logits = random_logits(1)
    assert torch.equal(adjust(logits, row(prompt=(5,), bad_words=([5, 6],))), logits)
    assert adjust(logits, row(prompt=(9,), output=(5,), bad_words=([5, 6],)))[0, 6] == -math.inf


@pytest.mark.parametrize("num_output", [0, 1, 2, 3, 4])
def test_min_tokens_equals_huggingface(num_output: int) -> None:
    logits = random_logits(1)
    output = tuple(range(10, 10 + num_output))
    ours = adjust(logits, row(prompt=(1, 1), output=output, eos=(2, 7), stop_token_ids=[5], min_tokens=3))
    processor = MinNewTokensLengthLogitsProcessor(2, 3, [2, 5, 7], device="cpu")
    assert torch.equal(ours, processor(torch.tensor([[1, 1, *output]]), logits))


def test_min_tokens_masks_eos_even_where_eos_is_ignored() -> None:
    ours = adjust(random_logits(1), row(eos=(2,), min_tokens=1, ignore_eos=True))
    assert ours[0, 2] == -math.inf


def test_bans_beyond_the_vocabulary_touch_no_row() -> None:
    logits = random_logits(3)
    beyond = row(eos=(VOCAB_SIZE, VOCAB_SIZE + 5), min_tokens=1, bad_words=([VOCAB_SIZE + 1],))
    assert torch.equal(adjust(logits, beyond, row(), beyond), logits)


def test_bans_touch_their_own_row_only() -> None:
    ours = changed(torch.zeros(3, 4), apply_bans, find_places([[0, 0, 3], [], [1]], 4))
    inf = math.inf
    assert ours.tolist() == [[-inf, 0, 0, -inf], [0, 0, 0, 0], [0, -inf, 0, 0]]


# allowed ids and biases


def test_allowed_token_ids_mask_everything_else() -> None:
    logits = random_logits(3)
    ours = changed(logits, apply_allowed_token_ids, Allowed.of([[3, 3, 29], None, [0]], VOCAB_SIZE))
    assert torch.equal(ours[1], logits[1])
    for index, allowed in ((0, {3, 29}), (2, {0})):
        for token_id in range(VOCAB_SIZE):
            expected = float(logits[index, token_id]) if token_id in allowed else -math.inf
            assert float(ours[index, token_id]) == expected


def test_logit_bias_equals_huggingface() -> None:
    bias = {0: 1.5, 7: -100.0, 29: 100.0}
    logits = random_logits(2)
    ours = changed(logits, apply_logit_bias, Biases.of([bias, {}], VOCAB_SIZE))
    processor = SequenceBiasLogitsProcessor([[[token_id], value] for token_id, value in bias.items()])
    assert torch.equal(ours[:1], processor(torch.tensor([[1]]), logits[:1]))
    assert torch.equal(ours[1], logits[1])


def test_a_bias_does_not_bring_back_a_banned_token() -> None:
    ours = adjust(random_logits(1), row(bad_words=([4],), allowed_token_ids=[4, 5], logit_bias={4: 100.0, 6: 100.0}))
    assert (ours > -math.inf)[0].nonzero()[:, 0].tolist() == [5]


def test_penalties_see_the_biased_logits() -> None:
    ours = adjust(torch.full((1, VOCAB_SIZE), -1.0), row(prompt=(4,), logit_bias={4: 3.0}, repetition_penalty=2.0))
    assert float(ours[0, 4]) == 1.0  # (-1 + 3) / 2: divided, since the bias made it positive


def test_the_input_is_left_alone_and_inference_tensors_are_welcome() -> None:
    with torch.inference_mode():
        logits = random_logits(1)
        before = logits.clone()
    everything = row(
        output=(1,), eos=(2,), bad_words=([4],), min_tokens=3, logit_bias={4: 3.0}, allowed_token_ids=[1, 2, 3, 4],
        repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.5,
    )  # fmt: skip
    sampler, metadata = Sampler(), SamplingMetadata.build([everything], VOCAB_SIZE, CPU)
    with torch.inference_mode():
        inside = sampler(logits, metadata).token_ids.tolist()
    assert sampler(logits, metadata).token_ids.tolist() == inside
    assert torch.equal(logits, before)
