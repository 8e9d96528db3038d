"""Turn a scheduled step into one flat batch, run the model, return the logits that are needed.

The new tokens of all sequences lie side by side in one row ``[1, num_tokens]`` with their own
positions; prompts and decoding steps are mixed and nothing is padded. (vLLM: ``v1/worker/gpu/model_runner.py``.)
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from folovllm.config import ModelImpl
from folovllm.models.attention import PagedAttention
from folovllm.models.attention_switch import Attention, run_with_attention, without_autocast
from folovllm.models.decode_graphs import DecodeGraphs, fill_up
from folovllm.models.decoder import FlatDecoder, why_not_flat
from folovllm.models.flat_batch import FlatBatch, TokenRun
from folovllm.models.kv_cache import KVCache
from folovllm.models.probe import get_attention
from folovllm.models.self_test import check_forward
from folovllm.models.torch_decoder import TorchDecoder, why_not_on_card
from folovllm.step import SchedulerOutput


class TransformersForward:
    """The forward pass of HuggingFace's own code, with our attention in it: any model that is not refused."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._windows = get_attention(model).windows
        self._keeps_rows = "logits_to_keep" in inspect.signature(model.forward).parameters

    def __call__(self, batch: FlatBatch) -> Tensor:
        """Return the logits that follow ``batch.rows``, as :class:`FlatDecoder` does."""
        tensors = batch.tensors
        output = run_with_attention(
            Attention(PagedAttention(batch, self._windows)),
            self._model,
            input_ids=tensors.token_ids[None],
            # Nothing is masked by it; without one some models search every prompt for padding tokens.
            attention_mask=torch.ones_like(tensors.token_ids)[None],
            position_ids=tensors.positions[None],
            use_cache=False,
            **({"logits_to_keep": tensors.rows} if self._keeps_rows else {}),
        )
        logits: Tensor = output.logits[0]
        return logits if self._keeps_rows else logits[tensors.rows]


Forward = FlatDecoder | TorchDecoder | TransformersForward


def _choose_forward(model: PreTrainedModel, model_impl: ModelImpl) -> type[Forward]:
    own: type[Forward]
    if model.device.type == "cpu":
        own, reason = FlatDecoder, why_not_flat(model)
    else:
        own, reason = TorchDecoder, why_not_on_card(model)
    if model_impl == "folovllm" and reason is not None:
        raise ValueError(
            f"ModelConfig.model_impl='folovllm' cannot run this model: {reason}; 'auto' and 'transformers' can"
        )
    return TransformersForward if model_impl == "transformers" or reason is not None else own


class ModelRunner:
    """Owns the model and the KV tensors.

    model_impl, enforce_eager: as in :class:`folovllm.config.ModelConfig`.
    forward: what computes the logits, HuggingFace's code or the engine's own.
    num_tokens_run: tokens that went through the model since it was made, for whoever wants to count.
    vocab_size: how many logits a token has; None before the first step.
    """

    def __init__(
        self, model: PreTrainedModel, kv_cache: KVCache, model_impl: ModelImpl = "auto", enforce_eager: bool = False
    ) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.num_tokens_run = 0
        self.vocab_size: int | None = None
        forward_class = _choose_forward(model, model_impl)
        check_forward(model, forward_class)
        self.forward: Forward | DecodeGraphs = forward_class(model)
        self._make_batch: Callable[..., FlatBatch] = FlatBatch
        # HuggingFace's code may call hooks in Python, which a replay would leave out.
        if model.device.type == "cuda" and isinstance(self.forward, TorchDecoder) and not enforce_eager:
            self.forward, self._make_batch = DecodeGraphs(self.forward), fill_up

    @property
    def is_batch_invariant(self) -> bool:
        """Say whether a sequence's logits are a function of its tokens alone, to the last bit."""
        return isinstance(self.forward, FlatDecoder)

    @property
    def records_steps(self) -> bool:
        """Say whether steps that decode are recorded, as CUDA graphs."""
        return isinstance(self.forward, DecodeGraphs)

    @torch.inference_mode()
    def execute(self, step: SchedulerOutput) -> Tensor:
        """Run one step.

        Returns float32 logits ``[num_rows, vocab]``: for each scheduled sequence in turn, one row
        for each of its ``logits_positions``. ``step.luggage`` is on the model's device then.
        """
        self.kv_cache.swap_out(step.blocks_to_swap_out)
        self.kv_cache.swap_in(step.blocks_to_swap_in)
        self.kv_cache.copy_blocks(step.blocks_to_copy)
        if not step.scheduled:  # nothing is left but to report what an interrupted step finished
            return torch.empty(0, self.model.config.get_text_config().vocab_size)
        token_ids: list[int] = []
        rows: list[int] = []
        runs: list[TokenRun] = []
        for item in step.scheduled:
            rows += [len(token_ids) + position for position in item.logits_positions]
            runs.append(TokenRun(item.start, len(item.token_ids), item.sequence.block_ids))
            token_ids += item.token_ids
        batch = self._make_batch(token_ids, rows, runs, self.kv_cache)
        step.luggage = batch.send_with(step.luggage)
        logits = self._forward(batch)
        self.num_tokens_run += len(token_ids)
        return logits[: len(rows)]

    @without_autocast
    def _forward(self, batch: FlatBatch) -> Tensor:
        logits = self.forward(batch)
        self.vocab_size = logits.shape[-1]
        return logits.float()

    @torch.inference_mode()
    def profile(self, num_tokens: int) -> None:
        """Run the largest possible step once, on whatever the blocks hold, to see the memory it takes."""
        num_blocks, block_size = self.kv_cache.data.shape[2:4]
        num_tokens = min(num_tokens, num_blocks * block_size)
        run = TokenRun(0, num_tokens, list(range(num_blocks)))
        self._forward(FlatBatch([0] * num_tokens, [0], [run], self.kv_cache))
