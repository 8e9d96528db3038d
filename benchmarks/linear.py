"""Measure matrix products of few rows: PyTorch's own, over weights packed by oneDNN, and the engine's kernel.

    python benchmarks/linear.py --rows 1 4 15 16 32 192

The weights are those of some layers of one model, random, and large enough together not to stay in the processor's
cache. All ways take turns on each number of rows; the medians of the ratios to ``torch.nn.functional.linear`` are
printed.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from folovllm.kernels.compiled import maker
from folovllm.kernels.decoder import matrix_at
from folovllm.kernels.linear import linear
from folovllm.kernels.team import THREADS, join, meet

SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
"""[out, in] of the matrices of a layer of SmolLM2-135M."""
NUM_LAYERS = 10
Pass = Callable[[dict[int, Tensor]], object]
"""Goes through all weights once, with the inputs by their width."""


@maker
def multiply_all(progress, table, x, no_bias, out):
    """Multiply the same numbers by every weight, one weight after the other.

    table: [num_weights, 3], int64: each one's address, rows and columns.  x, out: [num_rows, at least as many columns].
    """
    team = join(progress)
    num_rows = len(x)
    flat_x, flat_out = x.reshape(-1), out.reshape(-1)
    for address, height, width in table:
        rows = flat_x[: num_rows * width].reshape(num_rows, width)
        result = flat_out[: num_rows * height].reshape(num_rows, height)
        linear(team, rows, matrix_at(address, height, width), no_bias, result, False)
        meet(team)


class KernelPass:
    """All weights once, in one compiled call, as the engine's forward pass goes through its own."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = list(weights)  # the table has addresses, which keep nothing alive
        self._table = np.array([(weight.data_ptr(), *weight.shape) for weight in weights])
        self._no_bias = np.empty(0, np.float32)

    def __call__(self, inputs: dict[int, Tensor]) -> None:
        """Multiply. inputs: [num_rows, width] each; only the widest is used."""
        x = inputs[max(inputs)].numpy()
        out = np.empty((len(x), self._table[:, 1].max()), np.float32)
        arguments = (self._table, x, self._no_bias, out)
        THREADS.run(torch.get_num_threads(), len(self._table), multiply_all, *arguments)


def make_ways() -> dict[str, Pass]:
    """Return the ways by name."""
    weights = [torch.randn(shape) for _ in range(NUM_LAYERS) for shape in SHAPES]
    packed = [torch.ops.mkldnn._reorder_linear_weight(weight) for weight in weights]
    widths = [weight.shape[1] for weight in weights]

    def use_packed(inputs: dict[int, Tensor]) -> None:
        for width, weight in zip(widths, packed, strict=True):
            torch.ops.mkldnn._linear_pointwise(inputs[width], weight, None, "none", [], "")

    return {
        "PyTorch": lambda inputs: [functional.linear(inputs[weight.shape[1]], weight) for weight in weights],
        "packed by oneDNN": use_packed,
        "kernel": KernelPass(weights),
    }


def measure(ways: dict[str, Pass], rows: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each round, by way."""
    inputs = {width: torch.randn(rows, width) for _, width in SHAPES}
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, use in ways.items():
            started = time.perf_counter()
            use(inputs)
            if turn:  # the first one warms up
                milliseconds[name].append(1000 * (time.perf_counter() - started))
    return milliseconds


@torch.inference_mode()
def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 7, 8, 15, 16, 31, 32, 64, 128, 192, 256])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    ways = make_ways()
    print(f"{torch.get_num_threads()} threads, {NUM_LAYERS} layers\n")
    print("| rows |" + "".join(f" {name} |" for name in ways))
    print("|---|" + "---|" * len(ways))
    for rows in options.rows:
        milliseconds = measure(ways, rows, options.rounds)
        cells = []
        for each in milliseconds.values():
            ratio = statistics.median(a / b for a, b in zip(milliseconds["PyTorch"], each, strict=True))
            cells.append(f"{statistics.median(each):.1f} ms, {ratio:.2f} x")
        print(f"| {rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
