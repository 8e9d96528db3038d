"""Measure matrix products of few rows: PyTorch's own, over blocks of the weight's rows (ours), over packed weights.

    python benchmarks/linear.py --rows 1 4 15 16 32 192

The weights are those of one model's layers, random, and large enough together not to stay in the processor's cache. All
ways take turns on each number of rows; the medians of the ratios to ``torch.nn.functional.linear`` are printed.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor
from torch.nn.functional import linear

from folovllm.models.linear import SplitLinear

SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
"""[out, in] of the matrices of a layer of SmolLM2-135M."""
NUM_LAYERS = 10


def make_ways() -> dict[str, Callable[[dict[int, Tensor]], object]]:
    """Return the ways by name: each goes through all weights once, with the inputs by their width."""
    layers = [torch.nn.Linear(width, height, bias=False) for _ in range(NUM_LAYERS) for height, width in SHAPES]
    split = [SplitLinear(layer) for layer in layers]
    packed = [torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach()) for layer in layers]
    widths = [layer.in_features for layer in layers]

    def use_packed(inputs: dict[int, Tensor]) -> None:
        for width, weight in zip(widths, packed, strict=True):
            torch.ops.mkldnn._linear_pointwise(inputs[width], weight, None, "none", [], "")

    return {
        "linear": lambda inputs: [linear(inputs[layer.in_features], layer.weight) for layer in layers],
        "blocks": lambda inputs: [each(inputs[width]) for width, each in zip(widths, split, strict=True)],
        "packed (oneDNN)": use_packed,
    }


def measure(ways: dict[str, Callable[[dict[int, Tensor]], object]], rows: int, rounds: int) -> dict[str, list[float]]:
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
            ratio = statistics.median(a / b for a, b in zip(milliseconds["linear"], each, strict=True))
            cells.append(f"{statistics.median(each):.1f} ms, {ratio:.2f} x")
        print(f"| {rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
