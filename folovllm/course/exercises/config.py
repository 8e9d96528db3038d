"""The exercises of chapter 01, with their solutions and the mistakes that they catch."""

from typing import Any

import torch

from folovllm.config import CacheConfig
from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.engine.block_manager import BlockManager
from folovllm.models.probe import AttentionSpec


def block_size_solution(value: Any) -> int:
    """Return a block size that is allowed, or raise ValueError."""
    return CacheConfig(block_size=value).block_size


def kv_bytes_solution(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Return the bytes of keys and values that one token takes."""
    return AttentionSpec(num_layers, num_kv_heads, head_dim).bytes_per_token(dtype)


def num_fitting_solution(num_blocks: int, block_size: int, length: int) -> int:
    """Return how many sequences of so many tokens fit into the blocks."""
    return num_blocks // BlockManager(block_size, num_blocks, 0, enable_prefix_caching=False).blocks_for(length)


def _notes_check(value: Any) -> Any:
    if value <= 0:
        raise ValueError("block_size must be positive")
    return value


def _true_is_an_int(value: Any) -> Any:
    if not isinstance(value, int) or value <= 0:
        raise ValueError(value)
    return value


def _converted(value: Any) -> int:
    number = int(value)
    if number <= 0:
        raise ValueError(value)
    return number


def _asserted(value: Any) -> Any:
    assert isinstance(value, int)
    assert not isinstance(value, bool)
    assert value > 0
    return value


def _keys_only(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    return num_layers * num_kv_heads * head_dim * dtype.itemsize


def _query_heads(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    return 2 * num_layers * num_heads * head_dim * dtype.itemsize


def _one_layer(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    return 2 * num_kv_heads * head_dim * dtype.itemsize


def _numbers_not_bytes(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    return 2 * num_layers * num_kv_heads * head_dim


def _as_if_blocks_were_shared(num_blocks: int, block_size: int, length: int) -> int:
    return num_blocks * block_size // length


def _rounded_down(num_blocks: int, block_size: int, length: int) -> int:
    return num_blocks // (length // block_size)


def _always_one_more(num_blocks: int, block_size: int, length: int) -> int:
    return num_blocks // (length // block_size + 1)


_SHAPES = [(30, 9, 3, 64), (28, 16, 8, 128), (12, 12, 12, 64)]

EXERCISES = [
    Exercise(
        name="block_size",
        task="accept what a block size may be, refuse all else by ValueError",
        solution=block_size_solution,
        cases=[(value,) for value in (16, 1, 0, -16, 16.5, 16.0, "16", "many", True, False, None)],
        mistakes=[
            Mistake(
                _notes_check,
                "the notes' check lets 16.5 and True pass, and for '16' raises TypeError, which does not say what is "
                "wrong; ask for the type first",
            ),
            Mistake(_true_is_an_int, "True passes: bool is a subclass of int in Python; refuse it by name"),
            Mistake(
                _converted,
                "int() repairs what should be refused: 16.5 becomes 16 and '16' a number, and the user never learns "
                "that the setting was wrong",
            ),
            Mistake(
                _asserted,
                "assert raises AssertionError, and nothing at all under `python -O`; a user's mistake is a ValueError",
            ),
        ],
        hints=(
            "`value <= 0` compares before it knows what it compares.",
            "First `isinstance`, with `bool` refused although it is an `int`; then the range. One `raise` is enough.",
        ),
        code=(
            "if isinstance(value, bool) or not isinstance(value, int) or value < 1:\n"
            '    raise ValueError(f"block_size must be an int >= 1, got {value!r}")\n'
            "return value"
        ),
    ),
    Exercise(
        name="kv_bytes",
        task="bytes of the KV cache that one token takes",
        solution=kv_bytes_solution,
        cases=[(*shape, dtype) for shape in _SHAPES for dtype in (torch.float32, torch.bfloat16)],
        mistakes=[
            Mistake(_keys_only, "you count the keys; the values take as much again"),
            Mistake(
                _query_heads,
                "you count the query heads; only the key-value heads are stored, and grouped-query attention has fewer",
            ),
            Mistake(_one_layer, "you count one layer; every layer keeps its own keys and values"),
            Mistake(_numbers_not_bytes, "you count numbers; one takes `dtype.itemsize` bytes, 4 in float32"),
        ],
        hints=(
            "What does one layer keep of one token?",
            "A key and a value, each of `num_kv_heads * head_dim` numbers; then times layers, times `dtype.itemsize`.",
        ),
        code="return 2 * num_layers * num_kv_heads * head_dim * dtype.itemsize",
    ),
    Exercise(
        name="num_fitting",
        task="sequences of so many tokens that fit into the blocks",
        solution=num_fitting_solution,
        cases=[(364, 16, 200), (364, 16, 16), (91, 64, 65), (10, 16, 5), (8, 1, 3), (5, 16, 81)],
        mistakes=[
            Mistake(
                _as_if_blocks_were_shared,
                "you share out single tokens; two sequences never share a block that is not full, so each rounds up "
                "to whole blocks",
            ),
            Mistake(_rounded_down, "you round the blocks of a sequence down: its last tokens have no place"),
            Mistake(_always_one_more, "a length that fills its last block exactly needs no further one"),
        ],
        hints=(
            "How many blocks does one sequence need?",
            "`length / block_size`, rounded up: in whole numbers that is `-(-length // block_size)`.",
        ),
        code="return num_blocks // -(-length // block_size)",
    ),
]
