"""Wrong answers to the exercises of ``folovllm.course.exercises.config``."""

from collections.abc import Callable
from itertools import accumulate
from numbers import Number
from typing import Any

import torch

from folovllm.config import CacheConfig


def seats_by_steps(num_readers, max_tokens, max_steps):
    return -(-num_readers * max_tokens // max_steps)


def seats_as_a_float(num_readers, max_tokens, max_steps):
    return num_readers / ((max_steps - 1) // max_tokens + 1)


def seats_never_below_two(num_readers, max_tokens, max_steps):
    return max(2, -(-num_readers // ((max_steps - 1) // max_tokens + 1)))


def seats_plus(nearly_one):
    """Return an answer that rounds up by adding nearly 1."""
    return lambda num_readers, max_tokens, max_steps: int(
        num_readers / ((max_steps - 1) // max_tokens + 1) + nearly_one
    )


def fitting_plus(nearly_one):
    """Return an answer that rounds up to blocks by adding nearly 1."""

    def fitting(num_blocks, block_size, readers):
        needed = accumulate(int((prompt + answer - 1) / block_size + nearly_one) for prompt, answer in readers)
        return sum(blocks <= num_blocks for blocks in needed)

    return fitting


def seats_from_rounded_up_groups(num_readers, max_tokens, max_steps):
    return -(-num_readers // -(-max_steps // max_tokens)) if max_steps > 1 else 1


def seats_tried_up_to(last):
    """Return an answer that tries one number of seats after the other, and stops too early."""

    def tried(num_readers, max_tokens, max_steps):
        groups = (max_steps - 1) // max_tokens + 1
        return next((seats for seats in range(1, last + 1) if seats * groups >= num_readers), None)

    return tried


def seats_at_most_256(num_readers, max_tokens, max_steps):
    return min(256, -(-num_readers // ((max_steps - 1) // max_tokens + 1)))


def bits(num_layers, num_heads, num_kv_heads, head_dim, bytes_per_number):
    return 16 * num_layers * num_kv_heads * head_dim * bytes_per_number


def always_float32(num_layers, num_heads, num_kv_heads, head_dim, bytes_per_number):
    return 8 * num_layers * num_kv_heads * head_dim


def kilobytes(num_layers, num_heads, num_kv_heads, head_dim, bytes_per_number):
    return 2 * num_layers * num_kv_heads * head_dim * bytes_per_number / 1024


def by_the_first_reader(num_blocks, block_size, readers):
    if not readers:
        return 0
    prompt, answer = readers[0]
    return min(len(readers), num_blocks // -(-(prompt + answer - 1) // block_size))


def by_the_longest_reader(num_blocks, block_size, readers):
    needed = [-(-(prompt + answer - 1) // block_size) for prompt, answer in readers]
    return min(len(readers), num_blocks // max(needed)) if needed else 0


def first_256_readers(num_blocks, block_size, readers):
    seated = 0
    for prompt, answer in readers[:256]:
        num_blocks -= -(-(prompt + answer - 1) // block_size)
        seated += num_blocks >= 0
    return seated


def everybody_or_nobody(num_blocks, block_size, readers):
    needed = sum(-(-(prompt + answer - 1) // block_size) for prompt, answer in readers)
    return len(readers) if needed <= num_blocks else 0


def readers_spoilt(num_blocks, block_size, readers):
    seated = 0
    while readers:
        prompt, answer = readers.pop(0)
        num_blocks -= -(-(prompt + answer - 1) // block_size)
        if num_blocks < 0:
            break
        seated += 1
    return seated


def two_lasts_too_few(num_blocks, block_size, readers):
    return sum(
        sum(-(-(p + a - 2) // block_size) for p, a in readers[: i + 1]) <= num_blocks for i in range(len(readers))
    )


def type_error_for_a_wrong_type(value):
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"block_size must be an int >= 1, got {value!r}")
    if value < 1:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def type_error_for_a_list(value):
    if value < 1 or isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def forbidden_types_listed(value):
    if isinstance(value, bool | float | str | list | type(None)) or value < 1:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def forbidden_types_and_what_cannot_be_compared(value):
    try:
        is_wrong = isinstance(value, bool | float) or value < 1
    except TypeError:
        is_wrong = True
    if is_wrong:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def digits_only(value):
    if isinstance(value, str | bool) or not str(value).isdigit() or str(value) == "0":
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def any_whole_number(value):
    if isinstance(value, bool | float) or not isinstance(value, Number) or value != int(value) or value < 1:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def none_instead_of_an_error(value):
    return value if type(value) is int and value >= 1 else None


def false_instead_of_an_error(value):
    return value if type(value) is int and value >= 1 else False


def field_not_named(value):
    if type(value) is not int or value < 1:
        raise ValueError(f"must be an int >= 1, got {value!r}")
    return value


def value_not_shown(value):
    if type(value) is not int or value < 1:
        raise ValueError("block_size must be an int >= 1")
    return value


def allowed_not_named(value):
    if type(value) is not int or value < 1:
        raise ValueError(f"block_size {value!r}")
    return value


def value_without_quotes(value):
    if type(value) is not int or value < 1:
        raise ValueError(f"block_size must be an int >= 1, got {value}")
    return value


def default_instead_of_an_error(value):
    return value if type(value) is int and value >= 1 else 16


def powers_of_two_only(value):
    if type(value) is not int or value < 1 or value & (value - 1):
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def refused_if(is_wrong):
    """Return an answer that is right but for what it refuses among whole numbers."""

    def answer(value):
        if type(value) is not int or value < 1 or is_wrong(value):
            raise ValueError(f"block_size must be an int >= 1, got {value!r}")
        return value

    return answer


odd_sizes = refused_if(lambda value: value > 1 and value % 2)
multiples_of_8_above_8 = refused_if(lambda value: value > 8 and value % 8)
multiples_of_16_above_16 = refused_if(lambda value: value > 16 and value % 16)
small_odd_sizes = refused_if(lambda value: value in (3, 5, 7, 9))
primes = refused_if(lambda value: 2 < value < 1000 and all(value % n for n in range(2, value)))
more_than_100 = refused_if(lambda value: 100 < value < 2**40)


def whole_floats_too(value):
    if isinstance(value, float) and value.is_integer() and value >= 1:
        return int(value)
    if type(value) is not int or value < 1:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def error_returned(value):
    if type(value) is not int or value < 1:
        return ValueError(f"block_size must be an int >= 1, got {value!r}")
    return value


def message_in_two_parts(value):
    if type(value) is not int or value < 1:
        raise ValueError("block_size must be an int >= 1, got", value)
    return value


def other_words(value):
    if type(value) is not int or value < 1:
        raise ValueError(f"block_size must be a positive int, got {value!r}")
    return value


def group_named_too(value):
    return CacheConfig(block_size=value).block_size


def full_stop_added(value):
    if type(value) is not int or value < 1:
        raise ValueError(f"block_size must be an int >= 1, got {value!r}.")
    return value


def value_in_ascii(value):
    if type(value) is not int or value < 1:
        raise ValueError(f"block_size must be an int >= 1, got {value!a}")
    return value


def accepted_if(is_taken):
    """Return an answer that is right but for what else it takes."""

    def answer(value):
        if not is_taken(value) and (type(value) is not int or value < 1):
            raise ValueError(f"block_size must be an int >= 1, got {value!r}")
        return value

    return answer


def kv_bytes_as(dtype):
    """Return an answer that multiplies numbers of a kind that overflows, or rounds."""

    def answer(num_layers, num_heads, num_kv_heads, head_dim, bytes_per_number):
        factors = torch.tensor([2, num_layers, num_kv_heads, head_dim, bytes_per_number], dtype=dtype)
        return int(factors.prod(dtype=dtype))

    return answer


WRONG: dict[str, list[Callable[..., Any]]] = {
    "seats_needed": [
        seats_by_steps,
        seats_as_a_float,
        seats_never_below_two,
        *map(seats_plus, (0.9, 0.99, 0.999, 0.9999)),
        *map(seats_tried_up_to, (64, 100, 256, 1001)),
        seats_at_most_256,
    ],
    "kv_bytes": [bits, always_float32, kilobytes],
    "num_fitting": [
        *map(fitting_plus, (0.5, 0.9, 0.99, 0.999)),
        by_the_first_reader,
        by_the_longest_reader,
        first_256_readers,
        everybody_or_nobody,
        readers_spoilt,
        two_lasts_too_few,
    ],
    "block_size": [
        type_error_for_a_wrong_type,
        type_error_for_a_list,
        forbidden_types_listed,
        forbidden_types_and_what_cannot_be_compared,
        digits_only,
        any_whole_number,
        none_instead_of_an_error,
        false_instead_of_an_error,
        field_not_named,
        value_not_shown,
        allowed_not_named,
        value_without_quotes,
        default_instead_of_an_error,
        powers_of_two_only,
        odd_sizes,
        multiples_of_8_above_8,
        multiples_of_16_above_16,
        small_odd_sizes,
        primes,
        more_than_100,
        whole_floats_too,
        error_returned,
        message_in_two_parts,
        other_words,
        group_named_too,
        full_stop_added,
    ],
}
WRONG["block_size"] += [
    accepted_if(lambda value: value == float("inf")),
    accepted_if(lambda value: isinstance(value, complex)),
    accepted_if(lambda value: isinstance(value, bytes)),
    accepted_if(lambda value: isinstance(value, dict)),
    accepted_if(lambda value: isinstance(value, set)),
    accepted_if(callable),
    accepted_if(lambda value: type(value) is int and value < -(10**6)),
    refused_if(lambda value: value >= 2**63),
    value_in_ascii,
]
WRONG["kv_bytes"] += [kv_bytes_as(torch.int32), kv_bytes_as(torch.float32)]
EQUIVALENT: dict[str, dict[str, str]] = {}
