"""``round_bits``: from the bits of a float32 to those of the nearest bfloat16."""

from random import Random

import torch

from folovllm.course.exercises.exercise import Exercise, Mistake


def round_bits_solution(bits: int) -> int:
    """Return the 16 bits of the bfloat16 next to a float32, both as whole numbers."""
    signed = bits - 2**32 if bits >= 2**31 else bits
    number = torch.tensor(signed, dtype=torch.int32).view(torch.float32)
    return int(number.to(torch.bfloat16).view(torch.int16)) % 2**16


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


def _random_bits(random: Random) -> tuple[int]:
    """Return a float32 that is often half-way between two bfloat16, or beside half-way; never "not a number".

    Its mantissa is often full, so that one more carries into the exponent, odd or even. Some are infinite.
    """
    full, tiny = random.randrange(255) * 2**7 + 0x7F, random.randrange(2**7)
    kept = random.choice([random.randrange(0x7F80), random.randrange(0x7F80), full, tiny, 0, 0x7F7F, 0x7F80])
    cut = random.choice([0, 1, 2**15 - 1, 2**15, 2**15, 2**15 + 1, 2**16 - 1, random.randrange(2**16)])
    return (random.choice([0, 2**31]) + kept * 2**16 + cut * (kept < 0x7F80),)


_FLOAT32_OF_257, _FLOAT32_OF_259 = 0x43808000, 0x43818000  # half-way between 256 and 258, 258 and 260
_FLOAT32 = [
    *(0x3F800000, 0x3F80C000, 0x3F804000, _FLOAT32_OF_257, _FLOAT32_OF_259, 0xC1200001),
    *(0x3FFFFFFF, 0xBFFF8000),  # a full mantissa carries into an odd exponent
    *(0x7F800000, 0x80000000),  # infinity, and 0 with a sign
    *(0x007FFFFF, 0x00FFFFFF, 0x7F7FFFFF),  # all ones carry into the exponent, and to infinity
    *(0x80018000, 0xFF7F8000, 0x80008000),  # half-way, at both ends of the negative numbers
]

EXERCISE = Exercise(
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
)
