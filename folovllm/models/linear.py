"""Matrix products of few rows on a CPU, on all of its cores.

PyTorch hands ``x @ W.T`` to MKL as one product. For one row MKL reads the weight on a single thread, and for up to a
few hundred rows it divides the work badly. As a *batch* of products, each over a block of the weight's rows, the same
work is shared by all threads. The blocks are views: no weight is copied or repacked, so that processes
go on sharing the mapped file. ``benchmarks/linear.py`` measures both, beside oneDNN's packed weights.

Which way is taken depends on the number of rows and on nothing measured at run time: the last bits of a result
would otherwise differ from one start to the next, and with them, at a near-tie, a token.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

_MOST_ROWS = 192
"""Up to here the blocks are faster; beyond, one product is as fast, and needs no transposed result."""

_GOOD_NUMBERS = (1, 2, 4, 5, 6, 8)
"""Numbers of rows that MKL is quick with; beyond 8, multiples of 16. 15 rows take twice as long as 16."""

_BLOCK_ROWS = 768
"""Rows of a block where a weight has enough of them: a third faster than two blocks of a vocabulary's 49,152."""


def _next_good_number(num_rows: int) -> int:
    return next((number for number in _GOOD_NUMBERS if number >= num_rows), -(-num_rows // 16) * 16)


_PADDED = [_next_good_number(num_rows) for num_rows in range(_MOST_ROWS + 1)]


def _choose_num_blocks(weights: Sequence[Tensor]) -> int:
    """Return a number that divides the rows of all weights: at least one block a thread; 1 where blocks are no use."""
    first = weights[0]
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if first.device.type != "cpu" or first.dtype != torch.float32 or not has_mkl:
        return 1
    num_threads = torch.get_num_threads()
    wanted = max(num_threads, max(len(weight) for weight in weights) / _BLOCK_ROWS)
    common = math.gcd(*(len(weight) for weight in weights))
    divisors = [n for n in range(num_threads, int(4 * wanted) + 1) if common % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / wanted)), default=1)


class SplitLinear:
    """One or more linear layers on the same input, over views of their parameters.

    layers: weights ``[out, in]``, with or without biases; they are used as they are.
    """

    def __init__(self, *layers: torch.nn.Linear) -> None:
        self._weights = [layer.weight.detach() for layer in layers]
        self._biases = [None if layer.bias is None else layer.bias.detach() for layer in layers]
        self._num_blocks = _choose_num_blocks(self._weights)
        self._blocks = [weight.view(self._num_blocks, -1, weight.shape[1]) for weight in self._weights]
        self._sizes = [layer.out_features for layer in layers]
        self._has_bias = any(bias is not None for bias in self._biases)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Return ``x @ W.T + bias`` of each layer: [num_rows, in] -> [num_rows, out], perhaps transposed in memory."""
        num_rows, in_features = x.shape
        if num_rows > _MOST_ROWS or self._num_blocks == 1:
            return [linear(x, weight, bias) for weight, bias in zip(self._weights, self._biases, strict=True)]
        padded = _PADDED[num_rows]
        x = x.contiguous() if padded == num_rows else pad(x, (0, 0, 0, padded - num_rows))
        # Transposed, once for every block. Other strides of a single row mean the same but take MKL four times as long.
        columns = x.as_strided((self._num_blocks, in_features, padded), (0, 1, in_features))
        outputs = [
            torch.bmm(blocks, columns).as_strided((num_rows, size), (1, padded))
            for blocks, size in zip(self._blocks, self._sizes, strict=True)
        ]
        if self._has_bias:
            for output, bias in zip(outputs, self._biases, strict=True):
                if bias is not None:
                    output.add_(bias)
        return outputs
