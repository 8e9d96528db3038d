"""Wrong answers to the exercises of ``folovllm.course.exercises.numbers``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from folovllm.course.exercises.numbers.q8_0 import q8_0_solution
from folovllm.course.exercises.numbers.rms_norm import rms_norm_solution
from folovllm.course.exercises.numbers.round_bits import round_bits_solution
from folovllm.course.gguf_file import quantize_and_back


def _to_the_odd_one(bits: int) -> int:
    kept, cut = divmod(bits, 2**16)
    return kept + (cut > 2**15 or (cut == 2**15 and kept % 2 == 0))


def _always_up(bits: int) -> int:
    return -(-bits // 2**16)


def _sign_lost(bits: int) -> int:
    return round_bits_solution(bits) % 2**15


def _still_32_bits(bits: int) -> int:
    return round_bits_solution(bits) * 2**16


def _as_a_float(bits: int) -> Any:
    return float(round_bits_solution(bits))


def _never_infinite(bits: int) -> int:
    return min(round_bits_solution(bits), 0x7F7F)


def _eight_bits_kept(bits: int) -> int:
    return round_bits_solution(bits) & 0xFF00


def _carry_joined_with_or(bits: int) -> int:
    sign, exponent, mantissa = bits >> 31, (bits >> 23) & 255, bits & 0x7FFFFF
    mantissa, cut = divmod(mantissa, 2**16)
    if cut > 2**15 or (cut == 2**15 and mantissa % 2):
        mantissa += 1
    return (sign << 15) | (exponent << 7) | mantissa


def _carry_left_out(bits: int) -> int:
    rounded, kept = round_bits_solution(bits), bits >> 16
    return rounded if rounded >> 7 == kept >> 7 else kept & ~0x7F


def _mantissa_stays_full(bits: int) -> int:
    rounded, kept = round_bits_solution(bits), bits >> 16
    return rounded if rounded >> 7 == kept >> 7 else kept


def _nan_for_infinity(bits: int) -> int:
    return 0x7FC0 if (bits >> 23) & 255 == 255 else round_bits_solution(bits)


def _largest_for_infinity(bits: int) -> int:
    return 0x7F7F if (bits >> 23) & 255 == 255 else round_bits_solution(bits)


def _zero_without_sign(bits: int) -> int:
    return 0 if bits == 0x80000000 else round_bits_solution(bits)


def _smallest_are_zeros(bits: int) -> int:
    return bits >> 31 << 15 if (bits >> 23) & 255 == 0 else round_bits_solution(bits)


def _still_float16(x: Tensor) -> Tensor:
    return rms_norm_solution(x).half()


def _in_float64(x: Tensor) -> Tensor:
    wide = x.double()
    return wide / (wide.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def _cut_to_the_range(x: Tensor) -> Tensor:
    wide = x.square().clamp(max=65504.0).float()
    return x.float() / (wide.mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def _larger_epsilon(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=-1, keepdim=True) + 1e-4).sqrt()


def _smaller_epsilon(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()


def _largest_magnitude(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.abs().amax(dim=-1, keepdim=True) + 1e-5)


def _mean_magnitude(x: Tensor) -> Tensor:
    wide = x.float()
    return wide / (wide.abs().mean(dim=-1, keepdim=True) + 1e-5)


def _zeros_for_infinite(x: Tensor) -> Tensor:
    return torch.nan_to_num(x.float() / (x.square().mean(dim=-1, keepdim=True).float() + 1e-5).sqrt())


def _in_place(x: Tensor) -> Tensor:
    answer = rms_norm_solution(x)
    x.clamp_(-1, 1)
    return answer


def _first_row_only(x: Tensor) -> Tensor:
    return rms_norm_solution(x)[:1]


def _bfloat16_squares(x: Tensor) -> Tensor:
    wide = x.bfloat16()
    return x.float() / (wide.square().mean(dim=-1, keepdim=True).float() + 1e-5).sqrt()


def _four_bits_of_gguf(weights: Tensor) -> Tensor:
    return quantize_and_back(weights, "Q4_0")


def _unchanged(weights: Tensor) -> Tensor:
    return weights


def _flattened(weights: Tensor) -> Tensor:
    return q8_0_solution(weights).flatten()


def _scale_not_below_a_thousandth(weights: Tensor) -> Tensor:
    blocks = weights.reshape(-1, 32)
    scale = (blocks.abs().amax(dim=1, keepdim=True) / 127).clamp(min=1e-3)
    return ((blocks / scale).round() * scale.half().float()).reshape(weights.shape)


def _smallest_scale_too_large(weights: Tensor) -> Tensor:
    blocks = weights.reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True).clamp(min=1e-5) / 127
    return ((blocks / scale).round() * scale.half().float()).reshape(weights.shape)


def _small_scales_are_one(weights: Tensor) -> Tensor:
    blocks = weights.reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    scale = torch.where(scale < 1e-3, 1, scale)
    return ((blocks / scale).round() * scale.half().float()).reshape(weights.shape)


def _small_blocks_are_zeros(weights: Tensor) -> Tensor:
    largest = weights.reshape(-1, 32).abs().amax(dim=1, keepdim=True)
    return torch.where(largest > 0.002, q8_0_solution(weights).reshape(-1, 32), 0).reshape(weights.shape)


def _zero_blocks_stay_and_others_vanish(weights: Tensor) -> Tensor:
    return torch.nan_to_num(q8_0_solution(weights) * 0)


def _kept_where_the_stored_scale_is_0(weights: Tensor) -> Tensor:
    blocks = weights.reshape(-1, 32)
    stored = (blocks.abs().amax(dim=1, keepdim=True) / 127).half()
    return torch.where(stored == 0, blocks, q8_0_solution(weights).reshape(-1, 32)).reshape(weights.shape)


def _overwrites_the_weights(weights: Tensor) -> Tensor:
    return weights.copy_(q8_0_solution(weights))


def _scale_plus(a_little: float) -> Callable[[Tensor], Tensor]:
    """Return an answer that keeps 0 / 0 away by adding a little to every scale that it divides by."""

    def answer(weights: Tensor) -> Tensor:
        blocks = weights.reshape(-1, 32)
        scale = blocks.abs().amax(dim=1, keepdim=True) / 127
        return ((blocks / (scale + a_little)).round() * scale.half().float()).reshape(weights.shape)

    return _named(f"_scale_plus_{a_little}", answer)


def _multiplied_by_127_over_the_largest(weights: Tensor) -> Tensor:
    blocks = weights.reshape(-1, 32)
    largest = blocks.abs().amax(dim=1, keepdim=True)
    whole = torch.where(largest > 0, blocks * (127 / largest), 0).round()
    return (whole * (largest / 127).half().float()).reshape(weights.shape)


def _left_below(bound: float) -> Callable[[Tensor], Tensor]:
    """Return an answer that leaves alone what it takes for blocks of zeros."""

    def answer(weights: Tensor) -> Tensor:
        blocks = weights.reshape(-1, 32)
        is_small = blocks.abs().amax(dim=1, keepdim=True) / 127 < bound
        return torch.where(is_small, blocks, q8_0_solution(blocks)).reshape(weights.shape)

    return _named(f"_left_below_{bound}", answer)


def _viewed(weights: Tensor) -> Tensor:
    return q8_0_solution(weights.view(-1, 32)).view(weights.shape)


def _scale_in_bfloat16(weights: Tensor) -> Tensor:
    blocks = weights.reshape(-1, 32)
    scale = blocks.abs().amax(dim=1, keepdim=True) / 127
    whole = torch.where(scale > 0, blocks / scale, 0).round()
    return (whole * scale.bfloat16().float()).reshape(weights.shape)


def _named(name: str, answer: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    answer.__name__ = name
    return answer


def _q8_0_where(looks_full: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return an answer that makes zeros of each block, of [num_blocks, 32], that does not look full."""

    def answer(weights: Tensor) -> Tensor:
        blocks = weights.reshape(-1, 32)
        return torch.where(looks_full(blocks), q8_0_solution(weights).reshape(-1, 32), 0).reshape(weights.shape)

    return answer


def _rms_norm_where(looks_full: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.where(looks_full(x.float()), rms_norm_solution(x), 0)


_LOOKS_FULL: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda rows: rows.all(dim=1, keepdim=True),
    "sum": lambda rows: rows.sum(dim=1, keepdim=True) != 0,
    "mean": lambda rows: rows.mean(dim=1, keepdim=True) != 0,
    "positive_sum": lambda rows: rows.sum(dim=1, keepdim=True) > 0,
    "median": lambda rows: rows.median(dim=1, keepdim=True).values != 0,
    "product": lambda rows: rows.double().prod(dim=1, keepdim=True) != 0,
    "largest": lambda rows: rows.amax(dim=1, keepdim=True) != 0,
    "largest_positive": lambda rows: rows.amax(dim=1, keepdim=True) > 0,
    "least": lambda rows: rows.amin(dim=1, keepdim=True) != 0,
    "least_negative": lambda rows: rows.amin(dim=1, keepdim=True) < 0,
    "least_magnitude": lambda rows: rows.abs().amin(dim=1, keepdim=True) > 0,
    "spread": lambda rows: rows.std(dim=1, keepdim=True, correction=0) > 0,
    "range": lambda rows: rows.amax(dim=1, keepdim=True) > rows.amin(dim=1, keepdim=True),
    "first": lambda rows: rows[:, :1] != 0,
    "last": lambda rows: rows[:, -1:] != 0,
    "first_and_last": lambda rows: (rows[:, :1] != 0) | (rows[:, -1:] != 0),
    "first_positive": lambda rows: rows[:, :1] > 0,
}
"""Tests of rows that are meant to find those of zeros, and find others too."""


def _clamped_to_ten(x: Tensor) -> Tensor:
    return rms_norm_solution(x).clamp(-10, 10)


def _clamped_to_60000(x: Tensor) -> Tensor:
    return rms_norm_solution(x.clamp(-60000, 60000))


def round_bits_but_for(bits):
    """Return an answer that cuts off for one number, where a carry goes into the exponent or beyond."""
    return lambda given: given >> 16 if given == bits else round_bits_solution(given)


def rms_norm_of_256_columns(x):
    wide = x.float()
    return wide / (wide[:, :256].square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def rms_norm_of_four_rows(x):
    return torch.cat([rms_norm_solution(x[:4]), torch.zeros(x[4:].shape)])


def q8_0_of_four_rows(weights):
    return torch.cat([q8_0_solution(weights[:4]), torch.zeros(weights[4:].shape)])


def q8_0_down_the_columns_where_they_fit(weights):
    return q8_0_solution(weights.T).T if len(weights) % 32 == 0 else q8_0_solution(weights)


def q8_0_up_to_a_thousand(weights):
    return q8_0_solution(weights.clamp(-1000, 1000))


WRONG: dict[str, list[Callable[..., Any]]] = {
    "round_bits": [
        _to_the_odd_one,
        _always_up,
        _sign_lost,
        _still_32_bits,
        _as_a_float,
        _never_infinite,
        _eight_bits_kept,
        _carry_joined_with_or,
        _carry_left_out,
        _mantissa_stays_full,
        _nan_for_infinity,
        _largest_for_infinity,
        _zero_without_sign,
        _smallest_are_zeros,
    ],
    "rms_norm": [
        _still_float16,
        _in_float64,
        _cut_to_the_range,
        _larger_epsilon,
        _smaller_epsilon,
        _largest_magnitude,
        _mean_magnitude,
        _zeros_for_infinite,
        _in_place,
        _first_row_only,
        _bfloat16_squares,
        _clamped_to_60000,
        _clamped_to_ten,
        *(_named(f"_zeros_found_by_{name}", _rms_norm_where(test)) for name, test in _LOOKS_FULL.items()),
    ],
    "q8_0": [
        _four_bits_of_gguf,
        _unchanged,
        _flattened,
        _smallest_scale_too_large,
        _scale_not_below_a_thousandth,
        _small_scales_are_one,
        _small_blocks_are_zeros,
        _zero_blocks_stay_and_others_vanish,
        _kept_where_the_stored_scale_is_0,
        _overwrites_the_weights,
        _scale_in_bfloat16,
        _multiplied_by_127_over_the_largest,
        _viewed,
        *map(_left_below, (1e-6, 1e-8, 1e-9, 1e-12)),
        *map(_scale_plus, (1e-13, 1e-12, 1e-10, 1e-8, 1e-6)),
        *(_named(f"_zeros_found_by_{name}", _q8_0_where(test)) for name, test in _LOOKS_FULL.items()),
    ],
}
WRONG["round_bits"] += map(round_bits_but_for, (0x007FFFFF, 0x7F7FFFFF, 0x00FFFFFF, 0x80018000, 0xFF7F8000))
WRONG["rms_norm"] += [rms_norm_of_256_columns, rms_norm_of_four_rows]
WRONG["q8_0"] += [q8_0_of_four_rows, q8_0_down_the_columns_where_they_fit, q8_0_up_to_a_thousand]
EQUIVALENT: dict[str, dict[str, str]] = {
    "rms_norm": {
        "mean = wide.square().mean(dim=1, keepdim=True)": "of two dimensions, 1 is the last",
    },
    "q8_0": {
        "whole = torch.where(scale > 0, blocks / scale, 1).round()": "a block of zeros is multiplied by its scale, 0",
        "whole = torch.where(scale > 0, blocks / scale, -1).round()": "a block of zeros is multiplied by its scale, 0",
    },
}
