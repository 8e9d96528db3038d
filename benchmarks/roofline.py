"""The measured roofline: how fast this machine could be at best, from the model's own weight matrices.

One token of one text needs every weight once, so no engine in this dtype is faster than the weights can be read.
"""

import time
from collections.abc import Callable

import torch
from linear import KernelPass
from peers import Setting
from torch.nn import Linear
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM
from transformers import logging as transformers_logging

PASSES = 5


class Roofline:
    """The linear layers of the model (the output layer among them), in float32, without what lies between them."""

    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        transformers_logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
        self.weights = [module.weight.detach() for module in model.modules() if isinstance(module, Linear)]
        self.kernel_pass = KernelPass(self.weights)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Return GB/s at which the weights can be read, and the tokens a second that linear layers alone would allow.

        one_stream: if a token took no longer than reading the weights, in the quickest of four ways: added up;
        multiplied by a vector; multiplied by one row, with PyTorch or with the engine's kernel.
        linear_1, linear_32, kernel_1, kernel_32: of PyTorch and the kernel, by the number of rows.
        Always the best of ``PASSES`` passes over all weights: a bound is what can be reached, not what usually is.
        """
        gigabytes = sum(weight.nbytes for weight in self.weights) / 1e9
        figures = {}
        for rows in (1, 32):
            inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]) for weight in self.weights}
            figures[f"linear_{rows}"] = rows / _best(
                lambda given=inputs: [linear(given[weight.shape[1]], weight) for weight in self.weights]
            )
            figures[f"kernel_{rows}"] = rows / _best(lambda given=inputs: self.kernel_pass(given))
        vectors = {weight.shape[1]: torch.randn(weight.shape[1]) for weight in self.weights}
        one_stream = max(
            1 / _best(lambda: [weight.sum() for weight in self.weights]),
            1 / _best(lambda: [torch.mv(weight, vectors[weight.shape[1]]) for weight in self.weights]),
            figures["linear_1"],
            figures["kernel_1"],
        )
        return figures | {
            "gigabytes": gigabytes,
            "gigabytes_per_second": gigabytes * one_stream,
            "one_stream": one_stream,
        }


def _best(go_through_all: Callable[[], object]) -> float:
    """Return the seconds of the fastest pass; one before them warms up."""
    go_through_all()
    passes = []
    for _ in range(PASSES):
        started = time.perf_counter()
        go_through_all()
        passes.append(time.perf_counter() - started)
    return min(passes)
