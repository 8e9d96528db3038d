"""``kv_bytes``: what one token takes in the KV cache."""

from random import Random

import torch

from folovllm.course.exercises.exercise import Exercise, Mistake
from folovllm.course.exercises.outcome import Case
from folovllm.models.probe import AttentionSpec

_DTYPES = {1: torch.int8, 2: torch.bfloat16, 4: torch.float32, 8: torch.float64}


def kv_bytes_solution(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    """Return the bytes of keys and values that one token takes."""
    return AttentionSpec(num_layers, num_kv_heads, head_dim).bytes_per_token(_DTYPES[bytes_per_number])


def _random_shape(random: Random) -> Case:
    kv_heads = random.randint(1, 12)
    heads = kv_heads * random.choice((1, 2, 3, 8))
    return random.randint(1, 80), heads, kv_heads, random.choice((1, 63, 64, 80, 128)), random.choice((1, 2, 4, 8))


def _whole_block(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 16 * 2 * num_layers * num_kv_heads * head_dim * bytes_per_number


def _keys_only(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return num_layers * num_kv_heads * head_dim * bytes_per_number


def _query_heads(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * num_layers * num_heads * head_dim * bytes_per_number


def _queries_too(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return num_layers * (num_heads + 2 * num_kv_heads) * head_dim * bytes_per_number


def _queries_and_keys(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return num_layers * (num_heads + num_kv_heads) * head_dim * bytes_per_number


def _one_layer(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * num_kv_heads * head_dim * bytes_per_number


def _numbers_not_bytes(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * num_layers * num_kv_heads * head_dim


def _heads_forgotten(num_layers: int, num_heads: int, num_kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * num_layers * head_dim * bytes_per_number


EXERCISE = Exercise(
    name="kv_bytes",
    task="bytes of the KV cache that one token takes",
    solution=kv_bytes_solution,
    cases=[
        *((30, 9, 3, 64, 4), (1, 1, 1, 1, 1), (28, 16, 8, 128, 2), (12, 12, 12, 64, 4), (26, 8, 4, 256, 2)),
        *((30, 9, 9, 64, 4), (30, 9, 3, 128, 4), (30, 9, 3, 64, 2)),
        (101, 101, 101, 2001, 1),  # as a float32 it would be rounded
        (1000, 4096, 256, 1024, 8),  # more than an int32 holds
    ],
    generate=_random_shape,
    mistakes=[
        Mistake(_keys_only, "you count the keys; the values take as much again"),
        Mistake(
            _query_heads,
            "you count the query heads; only the key-value heads are kept, and here there are fewer of them",
        ),
        Mistake(
            _queries_too, "queries are not kept: only keys and values are, so no argument for query heads is needed"
        ),
        Mistake(_queries_and_keys, "queries are not kept: count the key-value heads twice, for keys and for values"),
        Mistake(_one_layer, "you count one layer; every layer keeps its own keys and values"),
        Mistake(_numbers_not_bytes, "you count numbers; each takes `bytes_per_number` bytes, 4 in float32"),
        Mistake(_whole_block, "you return the bytes of a block of 16; one token takes a 16th of it"),
        Mistake(_heads_forgotten, "you count one head; each key and each value has `num_kv_heads` of them"),
    ],
    hints=(
        "What does one layer keep of one token? Count the boxes of the picture.",
        "A key and a value, each of `num_kv_heads * head_dim` numbers; then times layers, times bytes.",
    ),
    code="return 2 * num_layers * num_kv_heads * head_dim * bytes_per_number",
)
