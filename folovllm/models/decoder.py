"""The forward pass of Llama's family, written for a flat batch: one call of :func:`folovllm.kernels.decoder.forward`.

HuggingFace's code serves every model and every way to use it, and runs some sixty small operators a layer beside its
seven matrix products. These are the same formulas over the same parameters, as loops that are compiled for this CPU:
float32 logits stay within 1e-4 of HuggingFace's. (vLLM writes its models anew as well,
``model_executor/models/llama.py``, and names the switch between the two as we do: ``model_impl``.)

The same bits in any batch: every number here is one sum in one order, whoever else is in the batch, however a prompt is
cut into chunks, whatever number of threads computes it. So a sequence's logits are a function of its tokens alone.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from folovllm.kernels.available import why_no_kernels
from folovllm.models.flat_batch import FlatBatch
from folovllm.models.module_tree import find_change
from folovllm.models.probe import get_attention

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

_PART = 256
"""About so many tokens go through all layers together, so that what lies between kernels stays in the caches."""


def why_not_flat(model: PreTrainedModel) -> str | None:
    """Return why a model cannot run here; None if it can."""
    if reason := _why_not_of_the_family(model):
        return reason
    for dtype in {weight.dtype for weight in model.parameters()} - {torch.float32}:
        return f"its dtype is {str(dtype).removeprefix('torch.')}, not float32"
    for device in {weight.device.type for weight in model.parameters()} - {"cpu"}:
        return f"it is on the device {device!r}, not on the CPU"
    if not all(weight.is_contiguous() for weight in model.parameters()):
        return "its weights do not lie in memory row by row"
    if reason := why_not_known(model):
        return reason
    missing = why_no_kernels()
    return missing and f"its kernels need numba, which cannot be used ({missing})"


def _why_not_of_the_family(model: PreTrainedModel) -> str | None:
    kind = type(model)
    if kind.__name__ in FAMILIES and kind.__module__.startswith("transformers.models."):
        return None
    return f"{kind.__name__} is none of transformers' {', '.join(FAMILIES)}"


def why_not_known(model: PreTrainedModel) -> str | None:
    """Return in what a model differs from those whose formulas are written out here; None if in nothing."""
    if reason := _why_not_of_the_family(model):
        return reason
    if change := find_change(model):
        return change
    if type(activation := model.model.layers[0].mlp.act_fn).__name__ not in ("SiLU", "SiLUActivation"):
        return f"its activation is {type(activation).__name__}, not SiLU"
    if len(model.lm_head.weight) > len(model.model.embed_tokens.weight):
        return "it has logits for tokens without an embedding"
    return None


class FlatDecoder:
    """Runs a model that :func:`why_not_flat` has nothing against, over the parameters as they lie in memory."""

    def __init__(self, model: PreTrainedModel) -> None:
        from folovllm.kernels import decoder  # here: importing numba takes .3 s, and a GPU has no use for it

        self._kernels = decoder
        self._kept: list[Tensor] = []  # the kernels know addresses, which keep nothing alive
        inner: Any = model.model
        windows = get_attention(model).windows
        head: Any = model.lm_head
        self._model = decoder.Model(
            layers=np.array([self._addresses(layer) for layer in inner.layers]),
            constants=np.array([_constants(layer) for layer in inner.layers], np.float32),
            windows=np.array([window or 0 for window in windows[: len(inner.layers)]]),
            embedding=_array(inner.embed_tokens.weight),
            norm=_array(inner.norm.weight),
            norm_eps=np.float32(inner.norm.variance_epsilon),
            head=_array(head.weight),
            head_bias=np.empty(0, np.float32) if head.bias is None else _array(head.bias),
            frequencies=_array(inner.rotary_emb.inv_freq.float()),
            rotary_scale=np.float32(inner.rotary_emb.attention_scaling),
        )
        attention, mlp = inner.layers[0].self_attn, inner.layers[0].mlp
        widths = [inner.embed_tokens.weight.shape[1]] * 2
        widths += [each.out_features for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
        widths += [attention.q_proj.out_features, mlp.up_proj.out_features, mlp.up_proj.out_features]
        self._widths = [*widths, attention.head_dim // 2, attention.head_dim // 2]
        self._room: list[Any] = []

    def _addresses(self, layer: Any) -> list[int]:
        """Return where a layer's parameters lie, in the order of the kernels' table."""
        attention, mlp = layer.self_attn, layer.mlp
        linears = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        linears += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
        # Qwen3 also normalizes queries and keys, head by head.
        head_norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
        norms = [layer.input_layernorm, layer.post_attention_layernorm, *head_norms]
        parameters = [linear.weight for linear in linears] + [linear.bias for linear in linears]
        parameters += [norm and norm.weight for norm in norms]
        self._kept += [each.detach() for each in parameters if each is not None]
        return [0 if each is None else each.data_ptr() for each in parameters]

    def __call__(self, batch: FlatBatch) -> Tensor:
        """Return the logits that follow ``batch.rows``: [num_rows, vocab]."""
        logits = np.empty((len(batch.rows), len(self._model.head)), np.float32)
        for first, end, pieces in batch.divide(_PART):  # each reads what those before it left in the KV cache
            chosen = slice(*np.searchsorted(batch.rows, (first, end)))
            tokens = slice(first, end)
            step = self._kernels.Step(
                batch.token_ids[tokens],
                batch.positions[tokens],
                batch.slots[tokens],
                batch.rows[chosen] - first,
                *batch.bundle(pieces),
                batch.seen,
            )
            arguments = (self._model, step, self._scratch(end - first), batch.kv_cache.data.numpy(), logits[chosen])
            self._kernels.run(torch.get_num_threads(), *arguments)
        return torch.from_numpy(logits)

    def _scratch(self, num_tokens: int) -> Any:
        """Return room for what lies between kernels. It is kept: the system hands out new memory page by page.

        PyTorch's memory begins at a multiple of 64 bytes, where a processor reads 64 at once; numpy's need not.
        """
        if not self._room or len(self._room[0]) < num_tokens:
            self._room = [torch.empty(num_tokens, width).numpy() for width in self._widths]
        return self._kernels.Scratch(*(each[:num_tokens] for each in self._room))


def _constants(layer: Any) -> list[float]:
    attention = layer.self_attn
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    norms += [getattr(attention, name, layer.input_layernorm) for name in ("q_norm", "k_norm")]
    return [*(norm.variance_epsilon for norm in norms), attention.scaling]


def _array(weight: Tensor) -> Any:
    return weight.detach().numpy()
