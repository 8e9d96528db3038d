"""The measured roofline: how fast this machine could be at best, from the model's own weight matrices.

One token of one text needs every weight once, so no engine in this dtype is faster than the weights can be read.
"""

import math
import time
from collections.abc import Callable

import torch
from peers import Setting
from torch import Tensor
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
        self.blocks = math.gcd(setting.threads, *(len(m.weight) for m in model.modules() if isinstance(m, Linear)))
        self.weights = [module.weight.detach() for module in model.modules() if isinstance(module, Linear)]

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Return GB/s of matrix-vector products, and the tokens a second that the linear layers alone would allow.

        The best of ``PASSES`` passes over all weights: a bound is what can be reached, not what usually is.
        """
        vectors = {weight.shape[1]: torch.randn(weight.shape[1]) for weight in self.weights}
        gigabytes = sum(weight.nbytes for weight in self.weights) / 1e9
        # MKL reads on one thread for one product, on all for a batch of products: the better of the two is the bound.
        columns = {width: vector.expand(1, -1).t().expand(self.blocks, -1, 1) for width, vector in vectors.items()}
        seconds = min(
            self._best(lambda weight: torch.mv(weight, vectors[weight.shape[1]])),
            self._best(lambda w: torch.bmm(w.view(self.blocks, -1, w.shape[1]), columns[w.shape[1]])),
        )
        figures = {"gigabytes": gigabytes, "gigabytes_per_second": gigabytes / seconds, "one_stream": 1 / seconds}
        for rows in (1, 32):
            inputs = {width: torch.randn(rows, width) for width in vectors}
            figures[f"linear_{rows}"] = rows / self._best(
                lambda weight, given=inputs: linear(given[weight.shape[1]], weight)
            )
        return figures

    def _best(self, use: Callable[[Tensor], Tensor]) -> float:
        """Return the seconds of the fastest pass."""
        passes = []
        for _ in range(PASSES):
            started = time.perf_counter()
            for weight in self.weights:
                use(weight)
            passes.append(time.perf_counter() - started)
        return min(passes)
