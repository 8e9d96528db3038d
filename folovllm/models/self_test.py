"""Run a loaded model's first layers with HuggingFace's attention and with ours, and refuse the model if they differ.

The notes of ``probe.py`` say what attention is asked for; this shows that nothing else matters: no convolution or
state that runs from token to token, no position that is counted, no keyword that is lost. Three short sequences go
through the engine's forward pass as it meets them: in one flat row, in pieces, over scattered blocks. What comes to lie
in the KV cache must be the keys and values that HuggingFace computes for each sequence alone.
"""

import inspect
import math
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from folovllm.models.attention_switch import Attention, run_with_attention, without_autocast
from folovllm.models.decoder import FlatDecoder
from folovllm.models.defaults import resolve_max_model_len
from folovllm.models.flat_batch import FlatBatch, TokenRun
from folovllm.models.kv_cache import KVCache
from folovllm.models.module_tree import runs_stock_code, settings_of, structure_of, without_hooks
from folovllm.models.probe import (
    AttentionSpec,
    UnsupportedModelError,
    get_attention,
    refusing,
    remember_attention,
)
from folovllm.models.torch_decoder import TorchDecoder

Forward = Callable[[FlatBatch], Tensor]
ForwardClass = Callable[[PreTrainedModel], Forward]

_BLOCK_SIZE = 4
_LARGEST_WINDOW = 256
"""Windows up to this are gone beyond; that larger ones are right follows from the mask (``attention_notes.py``)."""

_TOLERANCE = {torch.float32: 5e-3, torch.float64: 5e-3}
_TOLERANCE_16_BIT = 0.1
"""Largest relative error of a layer's keys or values over all tokens of a sequence.

float32 rounds to 1e-6, or to 1e-3 where a GPU multiplies in TF32. With 16 bits families that are right err by at most
0.02 (bfloat16 keeps three digits, and may send a token to another expert); those that are wrong err by 0.2 to 1.6.
"""


class _EnoughError(Exception):
    """Ends a forward pass after the layers that are looked at."""


class _ShortCache(KVCache):
    """A KV cache for the first layers of a model."""

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        if index == len(self.data):
            raise _EnoughError
        return super().layer(index)


_passed: WeakKeyDictionary[PreTrainedModel, dict[ForwardClass, object]] = WeakKeyDictionary()
"""The forward passes that were found right for a model, and how it was then: another LLM over it costs nothing."""


def check_forward(model: PreTrainedModel, forward_class: ForwardClass) -> None:
    """Compare the engine's forward pass with HuggingFace's own attention, unless that was done for this model.

    An :class:`UnsupportedModelError` where they differ. No hook of the model is called, its buffers and its mode stay,
    and so does the random state of PyTorch.
    """
    passed, structure = _passed.setdefault(model, {}), structure_of(model)
    if passed.get(forward_class) != structure:
        _SelfTest(model, forward_class).run()
        passed[forward_class] = structure


class _SelfTest:
    def __init__(self, model: PreTrainedModel, forward_class: ForwardClass) -> None:
        self._spec = spec = get_attention(model)
        self._model = model = without_hooks(model)
        self._name = f"{model.config.model_type} ({type(model).__name__})"
        self._num_layers = _layers_to_see_every_kind(model, spec)
        # Rounding errors add up like steps in any direction.
        self._tolerance = _TOLERANCE.get(model.dtype, _TOLERANCE_16_BIT * max(1, self._num_layers / 4) ** 0.5)
        if forward_class in (FlatDecoder, TorchDecoder):  # its last norm and its head are its own: let it come to them
            decoder: Any = model.model
            decoder.layers = decoder.layers[: self._num_layers]
        remember_attention(model, spec)
        self._forward = forward_class(model)
        forward = inspect.signature(model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in forward else {}
        self._longest = max([15, *(window for window in spec.windows if window and window <= _LARGEST_WINDOW)]) + 9

    @torch.inference_mode()
    @without_autocast
    def run(self) -> None:
        """Raise an UnsupportedModelError unless all agree."""
        # 16 bits may send a token to another expert: right models differ for some tokens, wrong ones for any.
        difference = None
        for seed in range(1 if self._model.dtype in _TOLERANCE else 3):
            difference = self._find_difference(seed)
            if difference is None:
                return
        raise UnsupportedModelError(f"{self._name}: {difference}")

    def _find_difference(self, seed: int) -> str | None:
        """Say for random tokens how our results differ from HuggingFace's; None if they agree."""
        random = torch.Generator().manual_seed(seed)
        text_config = self._model.config.get_text_config()
        limit = resolve_max_model_len(self._model.config.to_dict(), 2048)
        self._sequences = [
            torch.randint(text_config.vocab_size, (min(length, limit),), generator=random)
            for length in (self._longest, 8, 2)
        ]
        reason = "HuggingFace's own forward pass does not run on tokens and their positions alone"
        with refusing(lambda: f"{self._name}: {reason}"):
            expected = [self._run_huggingface(tokens) for tokens in self._sequences]
        # Logits at the end only where the last layer was come to.
        all_layers = self._num_layers == self._spec.num_layers
        if len(expected[0]) < 2 * self._num_layers + all_layers or len(expected[0]) // 2 != self._num_layers:
            return f"it calls attention more or fewer times than the {self._spec.num_layers} that its config gives"
        long, middle, short = map(len, self._sequences)
        # A prompt in two chunks, and one that decodes after the first step, and one that comes late.
        ends = [[long // 2, long - 1, long], [max(0, middle - 2), middle - 1, middle], [0, short - 1, short]]
        together = self._error(ends, expected)
        if together > self._tolerance and together > 2 * self._noise(expected[0]):
            if not all(each.isfinite().all() for tensors in expected for each in tensors):
                return "HuggingFace's own forward pass gives NaN or infinity"
            alone = self._error([[long]], expected[:1])
            return (
                f"its result differs from HuggingFace's own attention by {alone:.0%}"
                if alone > self._tolerance
                else "tokens reach others by another way than attention, such as a convolution, a recurrent state or "
                f"positions it counts itself; its result differs by {together:.0%}"
            )
        return None

    def _error(self, ends: list[list[int]], expected: list[list[Tensor]]) -> float:
        """Return the largest relative error of our keys, values and logits over all layers and sequences."""
        with refusing(lambda: f"{self._name}: its layers do not run on a row that holds several sequences"):
            found = self._run_ours(ends)
        tensors = [zip(ours, right, strict=True) for ours, right in zip(found, expected, strict=True)]
        # A head that is smaller than the cache's is followed by zeros.
        return max(_relative_error(ours[..., : right.shape[-1]], right) for pairs in tensors for ours, right in pairs)

    def _noise(self, expected: list[Tensor]) -> float:
        """Return by how much HuggingFace's own result changes where attention alone rounds less."""
        if "flash" in str(self._model.config._attn_implementation):
            return 0.0  # takes 16 bits only
        exact = self._run_huggingface(self._sequences[0], torch.float32)
        return max(_relative_error(a, b) for a, b in zip(exact, expected, strict=True))

    def _run_huggingface(self, tokens: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return each layer's keys and values of one sequence, [num_tokens, num_kv_heads, head_dim], then logits.

        dtype: of the attention; by default the model's.
        """
        name = self._model.config._attn_implementation
        functions: Any = ALL_ATTENTION_FUNCTIONS
        masks: Any = ALL_MASK_ATTENTION_FUNCTIONS
        seen: list[Tensor] = []

        def attend(
            module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **kwargs: Any
        ) -> Any:
            if len(seen) == 2 * self._num_layers:
                raise _EnoughError
            seen.extend(each[0].transpose(0, 1).clone() for each in (key, value))
            eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
            own = functions.get_interface(name, eager)
            output, weights = own(
                module, *(each.to(dtype or each.dtype) for each in (query, key, value)), *rest, **kwargs
            )
            return output.to(query.dtype), weights

        ids = tokens[None].to(self._model.device)
        try:
            output = run_with_attention(
                Attention(attend, masks.get(name)),
                self._model,
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=torch.arange(len(tokens), device=ids.device)[None],
                use_cache=False,
                **self._last_only,
            )
        except _EnoughError:
            return seen
        return [*seen, output.logits[0, -1]]

    def _run_ours(self, ends: list[list[int]]) -> list[list[Tensor]]:
        """Return the same for several sequences, from what the engine's forward pass leaves in the KV cache."""
        tables = _scattered_blocks([each[-1] for each in ends])
        num_blocks = 1 + max(max(table) for table in tables)
        spec, dtype, device = self._spec, self._model.dtype, self._model.device
        cache = _ShortCache(self._num_layers, num_blocks, _BLOCK_SIZE, spec.num_kv_heads, spec.head_dim, dtype, device)
        logits: dict[int, Tensor] = {}
        for step in _plan_steps(ends):
            runs = [TokenRun(start, end - start, tables[i][: -(-end // _BLOCK_SIZE)]) for i, start, end in step]
            token_ids = [token_id for i, start, end in step for token_id in self._sequences[i][start:end].tolist()]
            last_of_each = [count - 1 for count in accumulate(run.num_tokens for run in runs)]
            try:
                output = self._forward(FlatBatch(token_ids, last_of_each, runs, cache))
            except _EnoughError:
                continue
            logits |= {i: row for (i, _, _), row in zip(step, output, strict=True)}
        # Keys and values of all layers, each [num_blocks, block_size, num_kv_heads, head_dim].
        parts = cache.data.flatten(0, 1)
        found = []
        for i, table in enumerate(tables):
            of_sequence = parts[:, table].flatten(1, 2)[:, : ends[i][-1]]
            found.append([*of_sequence, *([logits[i]] if logits else [])])
        return found


def _plan_steps(ends: list[list[int]]) -> Iterator[list[tuple[int, int, int]]]:
    """Yield steps, each a list of (sequence, start, end), from the tokens that each sequence has after each step."""
    starts = [0] * len(ends)
    for step_ends in zip(*ends, strict=True):
        step = [(i, start, end) for i, (start, end) in enumerate(zip(starts, step_ends, strict=True)) if end > start]
        if step:
            yield step
        starts = list(step_ends)


def _scattered_blocks(lengths: list[int]) -> list[list[int]]:
    """Give every sequence blocks that do not lie side by side."""
    needed = [-(-length // _BLOCK_SIZE) for length in lengths]
    ids = [*range(0, sum(needed), 2), *range(1, sum(needed), 2)]
    return [[ids.pop() for _ in range(count)] for count in needed]


def _layers_to_see_every_kind(model: PreTrainedModel, spec: AttentionSpec) -> int:
    """Return how many attention calls must be looked at so that each kind of layer is run through."""
    layers: dict[int, list[Any]] = defaultdict(list)
    for name, module in model.named_modules():
        if match := re.match(r"\D*\.(\d+)(.*)", name):
            shapes = [tuple(parameter.shape) for parameter in module.parameters(recurse=False)]
            layers[int(match[1])].append((match[2], type(module), sorted(settings_of(module).items()), shapes))
    # Nobody knows what code of their owner's does elsewhere, if only in one layer or after the last.
    if len(layers) != spec.num_layers or not all(map(runs_stock_code, model.modules())):
        return spec.num_layers
    kinds = [repr((layers[i], spec.windows[i])) for i in sorted(layers)]
    last_new = max(kinds.index(kind) for kind in kinds)
    return min(last_new + 2, spec.num_layers)


def _relative_error(ours: Tensor, right: Tensor) -> float:
    """Return the distance of two tensors, in lengths of the second."""
    a, b = (torch.nan_to_num(each.cpu().double()) for each in (ours, right))
    error = float((a - b).norm() / b.norm().clamp(min=1e-30))
    return math.inf if math.isnan(error) else error
