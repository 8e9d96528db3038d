"""What ``KVBudget`` says at every point of a grid, recorded: a page looks up a point, and its neighbours for plots."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from book.words import translated
from folovllm.course.widgets.kv_budget import BLOCK_SIZES, MIB, Budget, KVBudget

GRID: dict[str, tuple[Any, ...]] = {
    "memory": (16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    "length": (16, 50, 100, 200, 400, 800, 1600, 3200, 8192),
    "block_size": BLOCK_SIZES,
    "dtype": ("float32", "bfloat16", "float16"),
}
"""Where each control stops on a page: MiB, tokens per sequence, tokens per block."""
MESSAGES = (
    *("keys and values", "empty ends of last blocks", "left over: too little for one more sequence"),
    *("the memory for the KV cache", "sequences that fit", "tokens per sequence", "memory that holds nothing"),
    *("tokens per block", "memory (MiB)", "sequence length"),
)
"""What the page says beside the sentences: the widget's own words, from the course's catalog."""
Watcher = Callable[[tuple[Any, ...], str], None]


def points() -> Iterator[tuple[Any, ...]]:
    """Return the grid: memory, length, block size and dtype, the last one changing fastest."""
    return itertools.product(*GRID.values())


def record(explorer: KVBudget, watch: Watcher | None = None) -> dict[str, Any]:
    """Return the recording, ready for JSON."""
    found = []
    for memory, length, block_size, dtype in points():
        budget = Budget(explorer.spec, getattr(torch, dtype), memory * MIB, block_size, length)
        if watch is not None:
            watch((memory, length, block_size, dtype), budget.sentence())
        shares = [round(budget.share_of(size), 5) for size in (budget.empty_bytes, budget.left_over_bytes)]
        found.append([budget.sentence(), budget.num_sequences, *shares])
    start = {"memory": explorer.memory.value, "length": explorer.length.value}
    start |= {"block_size": explorer.block_size.value, "dtype": explorer.dtype.value}
    return {
        "words": translated(MESSAGES),
        "controls": {name: list(stops) for name, stops in GRID.items()},
        "start": [list(stops).index(start[name]) for name, stops in GRID.items()],
        "points": found,
    }
