"""The forward pass of Llama's family, written for a flat batch.

HuggingFace's code serves every model and every way to use it, and runs some sixty small operators a layer beside its
seven matrix products. These are the same formulas in half as many operators, over the same parameters, with the
matrix products of ``linear.py``: float32 logits stay within 1e-4 of HuggingFace's. (vLLM writes its models anew as
well, ``model_executor/models/llama.py``, and names the switch between the two as we do: ``model_impl``.)
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, silu
from transformers import PreTrainedModel

from folovllm.models.attention import attend
from folovllm.models.linear import SplitLinear
from folovllm.models.module_tree import find_change
from folovllm.models.paged_batch import PagedBatch
from folovllm.models.probe import get_attention

FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def why_not_flat(model: PreTrainedModel) -> str | None:
    """Return why a model cannot run here; None if it can."""
    kind = type(model)
    if kind.__name__ not in FAMILIES or not kind.__module__.startswith("transformers.models."):
        return f"{kind.__name__} is none of transformers' {', '.join(FAMILIES)}"
    # Other dtypes round after every operator: with fewer operators they give other numbers.
    for dtype in {weight.dtype for weight in model.parameters()} - {torch.float32}:
        return f"its dtype is {str(dtype).removeprefix('torch.')}, not float32"
    return find_change(model)


class _RMSNorm:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467).

    sqrt(sum(x^2) + n * eps) is the length of x with one more coordinate: two operators instead of five.
    """

    def __init__(self, norm: Any) -> None:
        weight: Tensor = norm.weight.detach()
        self._weight = weight * math.sqrt(len(weight))
        self._coordinate = weight.new_tensor(math.sqrt(len(weight) * norm.variance_epsilon))

    def __call__(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / torch.hypot(length, self._coordinate)).mul_(self._weight)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2) of every head (Su et al. 2021, arXiv:2104.09864).

    x: [num_tokens, num_heads, head_dim].  cos, sin: [num_tokens, 1, head_dim], sin negative in its first half.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class _Layer:
    """One decoder layer: attention, then the MLP, each behind a norm, each added to what came in."""

    def __init__(self, index: int, layer: Any, window: int | None) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._index, self._head_dim = index, attention.head_dim
        self._scaling, self._window = attention.scaling, window
        self._norm, self._mlp_norm = _RMSNorm(layer.input_layernorm), _RMSNorm(layer.post_attention_layernorm)
        self._qkv = SplitLinear(attention.q_proj, attention.k_proj, attention.v_proj)
        # Qwen3 also normalizes queries and keys, head by head.
        named = ("q_norm", "k_norm") if hasattr(attention, "q_norm") else ()
        self._qk_norms = [_RMSNorm(getattr(attention, name)) for name in named]
        self._o = SplitLinear(attention.o_proj)
        self._gate_up = SplitLinear(mlp.gate_proj, mlp.up_proj)
        # In place: the system hands out memory for a long prompt's activations page by page, which takes its time.
        self._activation = partial(silu, inplace=True) if type(mlp.act_fn) is torch.nn.SiLU else mlp.act_fn
        self._down = SplitLinear(mlp.down_proj)

    def __call__(self, hidden: Tensor, cos: Tensor, sin: Tensor, batch: PagedBatch) -> None:
        """Change ``hidden``, [num_tokens, hidden_size], in place."""
        num_tokens = len(hidden)
        q, k, v = (each.view(num_tokens, -1, self._head_dim) for each in self._qkv(self._norm(hidden)))
        if self._qk_norms:
            q, k = (norm(each) for norm, each in zip(self._qk_norms, (q, k), strict=True))
        q, k = (_rotate(each.contiguous(), cos, sin) for each in (q, k))
        attended = attend(self._index, q, k, v, batch, self._scaling, self._window)
        hidden += self._o(attended.reshape(num_tokens, -1))[0]
        gate, up = self._gate_up(self._mlp_norm(hidden))
        hidden += self._down(self._activation(gate).mul_(up))[0]


class FlatDecoder:
    """Runs a model that :func:`why_not_flat` has nothing against.

    Its matrices are views of the model's parameters; the weights of its norms are scaled copies.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        decoder: Any = model.model
        self._embedding = decoder.embed_tokens.weight.detach()
        self._rotary_embedding = decoder.rotary_emb
        layers = enumerate(zip(decoder.layers, get_attention(model).windows, strict=False))
        self._layers = [_Layer(index, *layer) for index, layer in layers]
        self._norm = _RMSNorm(decoder.norm)
        self._lm_head = SplitLinear(model.lm_head)

    def __call__(self, token_ids: Tensor, rows: Tensor, batch: PagedBatch) -> Tensor:
        """Return the logits that follow some tokens of a flat batch: [num_rows, vocab].

        token_ids: [num_tokens].  rows: [num_rows], places in ``token_ids``.
        """
        hidden = embedding(token_ids, self._embedding)
        cos, sin = (each[0, :, None] for each in self._rotary_embedding(hidden, batch.position_ids[None]))
        first, second = sin.chunk(2, dim=-1)
        sin = torch.cat((-first, second), dim=-1)
        for layer in self._layers:
            layer(hidden, cos, sin, batch)
        return self._lm_head(self._norm(hidden[rows]))[0].contiguous()
