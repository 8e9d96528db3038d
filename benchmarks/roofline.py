"""The measured roofline: how fast this machine could be at best, from the model's own weight matrices.

One token of one text needs every weight once, so no engine in this dtype is faster than the weights can be read.
"""

import time
from collections.abc import Callable

import torch
from peers import Setting
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM
from transformers import logging as transformers_logging

from folovllm.models.linear import SplitLinear

PASSES = 5


class Roofline:
    """The linear layers of the model (the output layer among them), in float32, without what lies between them."""

    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        transformers_logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=torch.float32)
        layers = [module for module in model.modules() if isinstance(module, Linear)]
        self.weights = [layer.weight.detach() for layer in layers]
        self.split = [SplitLinear(layer) for layer in layers]

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Return GB/s of matrix-vector products, and the tokens a second that the linear layers alone would allow.

        The best of ``PASSES`` passes over all weights: a bound is what can be reached, not what usually is.
        """
        vectors = {weight.shape[1]: torch.randn(weight.shape[1]) for weight in self.weights}
        gigabytes = sum(weight.nbytes for weight in self.weights) / 1e9
        # MKL reads on one thread for one product, on all for a batch of products: the better of the two is the bound.
        seconds = min(
            self._best(lambda weight, split: torch.mv(weight, vectors[weight.shape[1]])),
            self._best(lambda weight, split: split(vectors[weight.shape[1]][None])),
        )
        figures = {"gigabytes": gigabytes, "gigabytes_per_second": gigabytes / seconds, "one_stream": 1 / seconds}
        for rows in (1, 32):
            inputs = {width: torch.randn(rows, width) for width in vectors}
            figures[f"linear_{rows}"] = rows / self._best(
                lambda weight, split, given=inputs: linear(given[weight.shape[1]], weight)
            )
        return figures

    def _best(self, use: Callable[[Tensor, SplitLinear], object]) -> float:
        """Return the seconds of the fastest pass."""
        passes = []
        for _ in range(PASSES):
            started = time.perf_counter()
            for weight, split in zip(self.weights, self.split, strict=True):
                use(weight, split)
            passes.append(time.perf_counter() - started)
        return min(passes)
