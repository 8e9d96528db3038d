"""What things cost in Python: the measurements of chapter 06."""

import timeit
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np

_FIELDS = [(name, int) for name in ("block_size", "max_num_seqs", "max_model_len", "seed")]
_Plain = make_dataclass("_Plain", _FIELDS)
_Slots = make_dataclass("_Slots", _FIELDS, slots=True)
_Frozen = make_dataclass("_Frozen", _FIELDS, frozen=True)


def seconds(function: Callable[[], Any], at_least: float = 0.01, rounds: int = 5) -> float:
    """Return how long one call takes: the best of several rounds, which other programs disturb least.

    at_least: seconds that a round takes; a quick function is called many times in it.
    """
    timer = timeit.Timer(function)
    calls = 1
    while (elapsed := timer.timeit(calls)) < at_least:
        calls *= 2
    return min(elapsed, *timer.repeat(rounds - 1, calls)) / calls


def bytes_of(make: Callable[[], Any]) -> int:
    """Return how much memory the thing that ``make`` makes holds on to."""
    already = tracemalloc.is_tracing()
    if not already:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    made = make()
    after = tracemalloc.get_traced_memory()[0]
    if not already:
        tracemalloc.stop()
    del made
    return after - before


@dataclass(frozen=True)
class RecordCost:
    """What four named numbers cost: nanoseconds to make and to read one of them, and bytes."""

    kind: str
    make_ns: float
    read_ns: float
    num_bytes: float


def compare_records(num_records: int = 2000) -> list[RecordCost]:
    """Measure the same four fields as a dict and as three kinds of dataclass."""
    makers: dict[str, Callable[[], Any]] = {
        "dict": lambda: {"block_size": 16, "max_num_seqs": 8, "max_model_len": 512, "seed": 0},
        "dataclass": lambda: _Plain(block_size=16, max_num_seqs=8, max_model_len=512, seed=0),
        "with slots": lambda: _Slots(block_size=16, max_num_seqs=8, max_model_len=512, seed=0),
        "frozen": lambda: _Frozen(block_size=16, max_num_seqs=8, max_model_len=512, seed=0),
    }
    return [_cost_of(kind, make, num_records) for kind, make in makers.items()]


def _cost_of(kind: str, make: Callable[[], Any], num_records: int) -> RecordCost:
    record = make()
    read = (lambda: record["seed"]) if isinstance(record, dict) else (lambda: record.seed)
    list_of_records = bytes_of(lambda: [make() for _ in range(num_records)])
    list_itself = bytes_of(lambda: [None for _ in range(num_records)])
    return RecordCost(kind, 1e9 * seconds(make), 1e9 * seconds(read), (list_of_records - list_itself) / num_records)


def grow_list(length: int) -> list[int]:
    """Append token after token to a list."""
    tokens: list[int] = []
    for token in range(length):
        tokens.append(token)
    return tokens


def grow_array(length: int) -> Any:
    """Append token after token to a numpy array: each time a new array, into which the old one is copied."""
    tokens = np.empty(0, dtype=np.int64)
    for token in range(length):
        tokens = np.append(tokens, token)
    return tokens


def fill_array(length: int) -> Any:
    """Write token after token into an array that had the full length from the start."""
    tokens = np.empty(length, dtype=np.int64)
    for token in range(length):
        tokens[token] = token
    return tokens
