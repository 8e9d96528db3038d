"""``q8_0``: what blocks of Q8_0 give back."""

from random import Random

import torch
from torch import Tensor

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.numbers.not_float32 import not_float32
from folovllm.course.exercises.numbers.rows_like_zeros import like_zeros
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.course.gguf_file import quantize_and_back
from folovllm.language import _


def q8_0_solution(weights: Tensor) -> Tensor:
    """Return what blocks of Q8_0 give back."""
    return quantize_and_back(weights, "Q8_0")


def _tiny_blocks_lost(case: Case, outcome: Outcome) -> str:
    """Complain of weights below the judge's tolerance that come back otherwise than they should."""
    if not isinstance(outcome.value, Tensor) or outcome.value.shape != case[0].shape:
        return ""
    if torch.allclose(outcome.value.double(), q8_0_solution(case[0]).double(), rtol=1e-4, atol=1e-12):
        return not_float32(case, outcome)
    return _(
        "almost: a block of very small weights comes back otherwise; its scale may be as small as it likes, until "
        "float16 makes 0 of it"
    )


def _in_blocks(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights as [num_blocks, 32], and the scale of each block: [num_blocks, 1]."""
    blocks = weights.reshape(-1, 32)
    return blocks, blocks.abs().amax(dim=1, keepdim=True) / 127


def _back(whole: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
    return (torch.where(scale > 0, whole, 0) * scale.half().float()).reshape(weights.shape)


def _nan_for_zeros(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return ((blocks / scale).round() * scale.half().float()).reshape(weights.shape)


def _multiplied_by_a_reciprocal(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return _back((blocks * (1 / scale)).round(), scale, weights)


def _one_scale_for_all(weights: Tensor) -> Tensor:
    scale = weights.abs().max() / 127
    return _back((weights / scale).round(), scale, weights)


def _one_scale_per_row(weights: Tensor) -> Tensor:
    scale = weights.abs().amax(dim=1, keepdim=True) / 127
    return torch.where(scale > 0, (weights / scale).round() * scale.half().float(), 0)


def _divided_by_128(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    scale = scale * 127 / 128
    return _back((blocks / scale).round(), scale, weights)


def _divided_by_the_stored_scale(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    stored = scale.half().float()
    return _back((blocks / stored).round(), stored, weights)


def _divided_by_a_stored_scale_of_0(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return _back((blocks / scale.half().float()).round(), scale, weights)


def _rounded_down(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return _back((blocks / scale).floor(), scale, weights)


def _rounded_up(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return _back((blocks / scale).ceil(), scale, weights)


def _blocks_of_16(weights: Tensor) -> Tensor:
    blocks = torch.nn.functional.pad(weights.reshape(-1, 16), (0, 16))
    return q8_0_solution(blocks)[:, :16].reshape(weights.shape)


def _signed_maximum(weights: Tensor) -> Tensor:
    blocks, _ = _in_blocks(weights)
    scale = blocks.amax(dim=1, keepdim=True) / 127
    return torch.where(scale == 0, 0, (blocks / scale).round() * scale.half().float()).reshape(weights.shape)


def _truncated(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return _back((blocks / scale).trunc(), scale, weights)


def _whole_numbers(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return _back((blocks / scale).round(), torch.where(scale > 0, 1.0, 0.0), weights)


def _left_in_blocks(weights: Tensor) -> Tensor:
    return q8_0_solution(weights).reshape(-1, 32)


def _scale_kept_in_float32(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return (torch.where(scale > 0, blocks / scale, 0).round() * scale).reshape(weights.shape)


def _product_in_float16(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return (torch.where(scale > 0, blocks / scale, 0).round().to(torch.int8) * scale.half()).reshape(weights.shape)


def _four_bits(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    scale = scale * 127 / 7
    return _back((blocks / scale).round(), scale, weights)


def _random_block(random: Random) -> list[float]:
    """Return 32 weights of which none lies half-way between two steps, so that no rule for ties is needed."""
    step = random.choice([0.0, 0.00000002, 0.00001, 0.00008, 0.0004, 0.004, 0.1, 1.0, 3.0])
    whole = [random.randint(-126, 126) + random.uniform(-0.49, 0.49) for _ in range(32)]
    whole[random.randrange(32)] = random.choice([-127, 127])
    return [step * each for each in like_zeros(random, whole, 127)]


def _random_weights(random: Random) -> tuple[Tensor]:
    rows, blocks = random.randint(1, 3), random.randint(1, 2)
    values = [_random_block(random) for _ in range(rows * blocks)]
    return (torch.tensor(values).reshape(rows, 32 * blocks),)


_WEIGHTS = [
    torch.linspace(-1.0, 0.83, 32).roll(5)[None],
    torch.zeros(1, 32),
    torch.stack([torch.cos(torch.arange(32.0)) * 7.1 - 2, torch.linspace(0.5, -90.0, 32)]),
    torch.tensor([[0.013, -0.021, 0.008, 0.017] * 7 + [0.003, -1.7, 0.011, -0.006] + [0.0] * 32]),
    torch.tensor([[0.05], [0.01], [0.001], [0.000005], [0.000003], [0.0]])
    * torch.linspace(-0.97, 1.0, 32),  # small blocks are blocks too
    torch.arange(32.0)[None],  # one zero, and it comes first
    -torch.arange(32.0).flip(0)[None],
    torch.tensor([[1.0, -1.0] * 16]),
    torch.ones(1, 32),
    # The smallest scale that float16 keeps, and a weight just above a half step: no little number may be added.
    6e-8 * torch.tensor([[127.0, 63.5001] + [0.0] * 30]),
    # Scales of which float16 makes 0.
    torch.tensor([[1e-8], [1e-10], [1e-14]]) * torch.linspace(-120, 127, 32),
    torch.tensor([[1e-37] + [0.0] * 31]),  # 1 / scale is too large for a float32
    torch.full((1, 32), 5e-7),
    torch.linspace(-20_000, 30_000, 32)[None],
    torch.linspace(-1.0, 0.9, 128).reshape(64, 2).T,  # not contiguous
    (torch.linspace(-1.0, 0.83, 32) * torch.linspace(0.1, 9.0, 64).reshape(32, 2, 1)).reshape(32, 64),  # as many rows
    (torch.linspace(-1.0, 0.83, 32) * torch.linspace(0.1, 9.0, 240).reshape(12, 20, 1)).reshape(12, 640),
]

EXERCISE = Exercise(
    name="q8_0",
    task="what do blocks of Q8_0 give back?",
    solution=q8_0_solution,
    cases=[(weights,) for weights in _WEIGHTS],
    generate=_random_weights,
    complaint=_tiny_blocks_lost,
    mistakes=[
        Mistake(
            _nan_for_zeros,
            "a block of zeros gives you nan: its scale is 0, and 0 / 0 is not a number; return zeros there",
        ),
        Mistake(
            _multiplied_by_a_reciprocal,
            "almost: you multiply by one over the scale, which is inf for the smallest scales, and inf * 0 is nan; "
            "divide by the scale",
        ),
        Mistake(
            _one_scale_for_all,
            "you take one scale for all weights; every 32 weights of a row have their own, so that one large "
            "weight spoils only its own block",
        ),
        Mistake(
            _one_scale_per_row,
            "you take one scale per row; every 32 weights of a row have their own",
        ),
        Mistake(
            _signed_maximum,
            "you scale by the largest value; the largest *magnitude* decides, or values far below zero do not fit "
            "into -127 ... 127",
        ),
        Mistake(_truncated, "you cut the fraction off; rounding to the nearest halves the error"),
        Mistake(
            _whole_numbers, "you return the whole numbers; multiply by the scale to get back to the size of weights"
        ),
        Mistake(
            _left_in_blocks,
            "almost: the numbers are right, but they are still in blocks of 32; give them the shape of `weights`",
        ),
        Mistake(
            _scale_kept_in_float32,
            "almost: the scale itself is stored in float16, so what comes back is multiplied by the rounded one",
        ),
        Mistake(
            _divided_by_the_stored_scale,
            "almost: you divide by the scale as it is stored; GGUF divides by the exact one and multiplies by the "
            "stored one",
        ),
        Mistake(
            _divided_by_a_stored_scale_of_0,
            "almost: you divide by the scale as it is stored, which may even be 0; GGUF divides by the exact one "
            "and multiplies by the stored one",
        ),
        Mistake(
            _product_in_float16,
            "almost: your result is rounded to float16 once more, at the end or because the scale is a float16; "
            "`scale.half().float()` makes that a float32",
        ),
        Mistake(_divided_by_128, "you divide by 128; the largest magnitude becomes 127, on both sides of 0"),
        Mistake(_rounded_down, "you round down; rounding to the nearest halves the error"),
        Mistake(_rounded_up, "you round up; rounding to the nearest halves the error"),
        Mistake(_blocks_of_16, "you take a scale for every 16 weights; a block has 32"),
        Mistake(_four_bits, "you divide by 7, which is for 4 bits; 8 bits with a sign reach 127"),
    ],
    hints=(
        "In each block the largest magnitude becomes 127. And if all are 0?",
        "`reshape(-1, 32)` gives the blocks. Divide by the exact scale, round, multiply by the scale as a float16.",
    ),
    code=(
        "blocks = weights.reshape(-1, 32)\n"
        "scale = blocks.abs().amax(dim=1, keepdim=True) / 127\n"
        "whole = torch.where(scale > 0, blocks / scale, 0).round()\n"
        "return (whole * scale.half().float()).reshape(weights.shape)"
    ),
)
