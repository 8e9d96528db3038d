"""The exercises of chapter 04b, with their solutions and the mistakes that they catch."""

from random import Random

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.course.gguf_file import quantize_and_back
from folovllm.language import _

_EPSILON = 1e-5


def round_bits_solution(bits: int) -> int:
    """Return the 16 bits of the bfloat16 next to a float32, both as whole numbers."""
    signed = bits - 2**32 if bits >= 2**31 else bits
    number = torch.tensor(signed, dtype=torch.int32).view(torch.float32)
    return int(number.to(torch.bfloat16).view(torch.int16)) % 2**16


@torch.inference_mode()
def rms_norm_solution(x: Tensor) -> Tensor:
    """Return what the norm of a Llama layer makes of hidden states, in float32."""
    norm = LlamaRMSNorm(x.shape[-1], eps=_EPSILON)
    normed: Tensor = norm(x.float())
    return normed.clone()


def q8_0_solution(weights: Tensor) -> Tensor:
    """Return what blocks of Q8_0 give back."""
    return quantize_and_back(weights, "Q8_0")


def _cut_off(bits: int) -> int:
    return bits // 2**16


def _halves_up(bits: int) -> int:
    return (bits + 2**15) // 2**16


def _halves_down(bits: int) -> int:
    return (bits + 2**15 - 1) // 2**16


def _lower_half(bits: int) -> int:
    return bits % 2**16


def _carry_joined_with_or(bits: int) -> int:
    rounded, kept = round_bits_solution(bits), bits // 2**16
    return rounded if rounded // 2**7 == kept // 2**7 else kept & 0xFF80 | 0x80


def _float16_bits(bits: int) -> int:
    signed = bits - 2**32 if bits >= 2**31 else bits
    return int(torch.tensor(signed, dtype=torch.int32).view(torch.float32).half().view(torch.int16)) % 2**16


def _ends_at_the_largest(bits: int) -> int:
    rounded = round_bits_solution(bits)
    return rounded - (rounded % 2**15 == 0x7F80)


def _below_zero(bits: int) -> int:
    rounded = round_bits_solution(bits)
    return rounded - 2**16 * (rounded >= 2**15)


def _leading_zeros_lost(bits: int) -> int:
    written = f"{bits:b}"
    kept, cut = int(written[:16], 2), int(written[16:], 2)
    return kept + (cut > 2**15 or (cut == 2**15 and kept % 2 == 1))


def _not_float32(case: Case, outcome: Outcome) -> str:
    """Complain of a norm whose numbers are right and take another number of bytes than asked for."""
    if not isinstance(outcome.value, Tensor) or outcome.value.dtype == torch.float32:
        return ""
    return _("the numbers are right, but your tensor is {dtype}; return torch.float32").format(
        dtype=outcome.value.dtype
    )


def _tiny_blocks_lost(case: Case, outcome: Outcome) -> str:
    """Complain of weights below the judge's tolerance that come back otherwise than they should."""
    if not isinstance(outcome.value, Tensor) or outcome.value.shape != case[0].shape:
        return ""
    if torch.allclose(outcome.value.double(), q8_0_solution(case[0]).double(), rtol=1e-4, atol=1e-12):
        return ""
    return _(
        "almost: a block of very small weights comes back otherwise; its scale may be as small as it likes, until "
        "float16 makes 0 of it"
    )


def _squares_in_float16(x: Tensor) -> Tensor:
    return x.float() / (x.square().float().mean(dim=-1, keepdim=True) + _EPSILON).sqrt()


def _never_widened(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + _EPSILON).sqrt()


def _never_widened_rsqrt(x: Tensor) -> Tensor:
    return x * (x.square().mean(dim=-1, keepdim=True) + _EPSILON).rsqrt()


def _all_in_float16(x: Tensor) -> Tensor:
    return _never_widened(x).float()


def _mean_in_float16(x: Tensor) -> Tensor:
    return x.float() / (x.square().mean(dim=-1, keepdim=True).float() + _EPSILON).sqrt()


def _normed(x: Tensor, epsilon: float = _EPSILON, dim: int | None = -1) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=dim, keepdim=True) + epsilon).sqrt()


def _without_epsilon(x: Tensor) -> Tensor:
    return _normed(x, 0.0)


def _over_the_whole_tensor(x: Tensor) -> Tensor:
    return _normed(x, dim=None)


def _down_the_columns(x: Tensor) -> Tensor:
    return _normed(x, dim=0)


def _without_keepdim(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=-1) + _EPSILON).sqrt()


def _sum_of_squares(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().sum(dim=-1, keepdim=True) + _EPSILON).sqrt()


def _layer_norm(x: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=_EPSILON)


def _divided_by_the_spread(x: Tensor, correction: int = 1) -> Tensor:
    """Divide as with x.var(), which warns where a row has one number only."""
    wide = x.float()
    squares = (wide - wide.mean(dim=-1, keepdim=True)).square().sum(dim=-1, keepdim=True)
    return wide / (squares / (x.shape[-1] - correction) + _EPSILON).sqrt()


def _divided_by_the_whole_spread(x: Tensor) -> Tensor:
    return _divided_by_the_spread(x, correction=0)


def _epsilon_outside(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=-1, keepdim=True).sqrt() + _EPSILON)


def _no_root(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=-1, keepdim=True) + _EPSILON)


def _in_blocks(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights as [num_blocks, 32], and the scale of each block: [num_blocks, 1]."""
    blocks = weights.reshape(-1, 32)
    return blocks, blocks.abs().amax(dim=1, keepdim=True) / 127


def _back(whole: Tensor, scale: Tensor, weights: Tensor) -> Tensor:
    return (torch.where(scale > 0, whole, 0) * scale.half().float()).reshape(weights.shape)


def _nan_for_zeros(weights: Tensor) -> Tensor:
    blocks, scale = _in_blocks(weights)
    return ((blocks / scale).round() * scale.half().float()).reshape(weights.shape)


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


def _random_bits(random: Random) -> tuple[int]:
    """Return a float32 that is often half-way between two bfloat16, or beside half-way; never "not a number".

    Its mantissa is often full, so that one more carries into the exponent, odd or even. Some are infinite.
    """
    full, tiny = random.randrange(255) * 2**7 + 0x7F, random.randrange(2**7)
    kept = random.choice([random.randrange(0x7F80), random.randrange(0x7F80), full, tiny, 0, 0x7F7F, 0x7F80])
    cut = random.choice([0, 1, 2**15 - 1, 2**15, 2**15, 2**15 + 1, 2**16 - 1, random.randrange(2**16)])
    return (random.choice([0, 2**31]) + kept * 2**16 + cut * (kept < 0x7F80),)


def _random_states(random: Random) -> tuple[Tensor]:
    """Return hidden states of very different sizes, row by row: huge, tiny, all zero, and nearly so."""
    columns = random.randint(1, 6)
    sizes = [random.choice([0.0, 0.0005, 0.004, 1.0, 300.0, 21834.0]) for _ in range(random.randint(1, 4))]
    rows = [_like_zeros(random, [size * random.uniform(-3, 3) for _ in range(columns)], size * 3) for size in sizes]
    return (torch.tensor(rows).half(),)


def _like_zeros(random: Random, row: list[float], largest: float) -> list[float]:
    """Return a row or one made of it that has something in common with zeros: its sum, its spread, some numbers."""
    holed = [each * random.choice([0, 1]) for each in row]
    holed[random.randrange(len(row))] = largest
    alternating = [largest, -largest] * (len(row) // 2) + [0.0] * (len(row) % 2)
    alike = [largest * random.choice([-1, 1])] * len(row)
    return random.choice(
        [row, row, holed, [abs(each) for each in holed], [-abs(each) for each in holed], alternating, alike]
    )


def _random_block(random: Random) -> list[float]:
    """Return 32 weights of which none lies half-way between two steps, so that no rule for ties is needed."""
    step = random.choice([0.0, 0.00000002, 0.00001, 0.00008, 0.0004, 0.004, 0.1, 1.0, 3.0])
    whole = [random.randint(-126, 126) + random.uniform(-0.49, 0.49) for _ in range(32)]
    whole[random.randrange(32)] = random.choice([-127, 127])
    return [step * each for each in _like_zeros(random, whole, 127)]


def _random_weights(random: Random) -> tuple[Tensor]:
    rows, blocks = random.randint(1, 3), random.randint(1, 2)
    values = [_random_block(random) for _ in range(rows * blocks)]
    return (torch.tensor(values).reshape(rows, 32 * blocks),)


_FLOAT32_OF_257, _FLOAT32_OF_259 = 0x43808000, 0x43818000  # half-way between 256 and 258, 258 and 260
_FLOAT32 = [
    *(0x3F800000, 0x3F80C000, 0x3F804000, _FLOAT32_OF_257, _FLOAT32_OF_259, 0xC1200001),
    *(0x3FFFFFFF, 0xBFFF8000),  # a full mantissa carries into an odd exponent
    *(0x7F800000, 0x80000000),  # infinity, and 0 with a sign
]
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
]

_NEVER_WIDENED = (
    "you compute in float16: it ends at 65,504, so the square of 300 is already infinite, and the result 0; "
    "`x.float()` widens the row first, and then the result is float32 too"
)
_VARIANCE = "you divide by the spread: the variance takes the mean away first; take the mean of the squares themselves"
EXERCISES = [
    Exercise(
        name="round_bits",
        task="from the bits of a float32 to those of the nearest bfloat16",
        solution=round_bits_solution,
        cases=[(bits,) for bits in _FLOAT32],
        generate=_random_bits,
        mistakes=[
            Mistake(
                _cut_off,
                "you cut the 16 bits off; a number just below the next bfloat16 must go up to it, or every weight "
                "shrinks a little",
            ),
            Mistake(
                _halves_up,
                "almost: exactly half-way you always go up; the rule is to the even one, so that sums do not drift: "
                "257 becomes 256, 259 becomes 260",
            ),
            Mistake(
                _halves_down,
                "almost: exactly half-way you always go down; the rule is to the even one: 259 becomes 260",
            ),
            Mistake(
                _ends_at_the_largest,
                "almost: beyond the largest bfloat16 comes infinity, by the same rule: 32639 and one more is 32640",
            ),
            Mistake(
                _carry_joined_with_or,
                "almost: a full mantissa and one more carry into the exponent: join the parts with +, not with |",
            ),
            Mistake(
                _below_zero,
                "your number is below 0 where the first bit is 1; 16 bits as a whole number are 0 to 65,535, so take "
                "`% 2**16`",
            ),
            Mistake(
                _leading_zeros_lost,
                "you lose the zeros in front: `bin` and `:b` leave them out, and `:032b` writes all 32 bits",
            ),
            Mistake(_lower_half, "you keep the lower 16 bits; sign and exponent are at the upper end"),
            Mistake(
                _float16_bits,
                "these are the bits of a float16, which has 5 bits of exponent; bfloat16 has the 8 of float32",
            ),
        ],
        hints=(
            "A bfloat16 is the upper half of a float32. What does the lower half say?",
            "`divmod(bits, 2**16)` gives both halves. More than 2**15 cut off: one up. Exactly 2**15: one up if what "
            "is kept is odd.",
        ),
        code=(
            "kept, cut = divmod(bits, 2**16)\n"
            "if cut > 2**15 or (cut == 2**15 and kept % 2 == 1):\n"
            "    kept += 1\n"
            "return kept"
        ),
    ),
    Exercise(
        name="rms_norm",
        task="the norm of float16 numbers whose squares are no float16",
        solution=rms_norm_solution,
        cases=[
            (torch.tensor([[300.0, 400.0]]).half(),),  # first, because float16 shows here what it does
            (torch.tensor([[1.0, 2.0, 2.0], [3.0, 0.0, -4.0]]).half(),),
            (torch.tensor([[20000.0, -300.0, 8.0]]).half(),),
            (torch.tensor([[0.0, 0.0], [0.0004, -0.0003]]).half(),),
            (torch.tensor([[1.0, 2.0, 3.0], [400.0, 0.5, -2.0]]).half(),),
            (torch.tensor([[3.0, -3.0], [0.0, 2.0], [-2.0, 0.0], [2.0, 2.0]]).half(),),  # not zeros
            (torch.tensor([[65504.0, 30000.0]]).half(),),
            (torch.nn.functional.pad(torch.tensor([[20000.0], [-3.0]]), (0, 199)).half(),),  # results above 10
        ],
        generate=_random_states,
        complaint=_not_float32,
        mistakes=[
            Mistake(_never_widened, _NEVER_WIDENED),
            Mistake(_never_widened_rsqrt, _NEVER_WIDENED + " (rsqrt comes too late to help)"),
            Mistake(
                _squares_in_float16,
                "you square in float16: 20000 squared is 400 million, which float16 has not, so it becomes infinite "
                "and the result 0; widen first, then square",
            ),
            Mistake(
                _mean_in_float16,
                "you widen the mean; by then the squares are infinite, so widen before you square",
            ),
            Mistake(
                _all_in_float16,
                "you compute in float16 and widen at the end; by then the squares are infinite, so widen first",
            ),
            Mistake(
                _without_keepdim,
                "your means are [rows], and the division lays them along the columns; `keepdim=True` keeps them "
                "[rows, 1], so that each row is divided by its own",
            ),
            Mistake(
                _without_epsilon,
                "you leave out the 1e-5: a row of zeros gives 0 / 0, which is nan",
            ),
            Mistake(
                _over_the_whole_tensor,
                "you take one mean over all rows; each row is one token and has its own",
            ),
            Mistake(_down_the_columns, "you take the mean down the columns; each row is one token and has its own"),
            Mistake(_sum_of_squares, "you take the sum of the squares; it is their mean"),
            Mistake(_layer_norm, "you take the mean away first; that is LayerNorm, RMSNorm only divides"),
            Mistake(_divided_by_the_spread, _VARIANCE),
            Mistake(_divided_by_the_whole_spread, _VARIANCE + " (in either form of the variance)"),
            Mistake(_epsilon_outside, "you add 1e-5 to the root; it is added to the mean, before the root"),
            Mistake(_no_root, "you divide by the mean of the squares; the root is missing"),
        ],
        hints=(
            "Which of the steps leaves float16's range?",
            "Widen to float32 first. Then divide by the root of (mean of the squares of the row + 1e-5).",
        ),
        code=("wide = x.float()\nmean = wide.square().mean(dim=-1, keepdim=True)\nreturn wide / (mean + 1e-5).sqrt()"),
    ),
    Exercise(
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
                "almost: your product is a float16 and is rounded once more; make the stored scale a float32 first: "
                "`scale.half().float()`",
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
    ),
]
