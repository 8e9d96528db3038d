"""The forward pass of Llama's family for cards: the formulas of ``kernels/decoder.py``, as PyTorch's operators.

A card waits for its host wherever a step is many small operators, and one that decodes is little else. HuggingFace's
code, which serves every model, takes 37 of them a layer; this takes 19, over the same parameters.
(Touvron et al. 2023, arXiv:2302.13971, section 2.2.)
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, rms_norm, silu
from transformers import PreTrainedModel

from folovllm.models.attention import attend_by_torch
from folovllm.models.decoder import why_not_known
from folovllm.models.flat_batch import FlatBatch
from folovllm.models.probe import get_attention


def why_not_on_card(model: PreTrainedModel) -> str | None:
    """Return why a model cannot run here; None if it can."""
    if model.device.type == "cpu":
        return "it is on the CPU"
    return why_not_known(model)


class TorchDecoder:
    """Runs a model that :func:`why_not_on_card` has nothing against, in its dtype, on its device."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model.model
        self._head: Any = model.lm_head
        self._windows = get_attention(model).windows

    def __call__(self, batch: FlatBatch) -> Tensor:
        """Return the logits that follow ``batch.rows``: [num_rows, vocab]."""
        hidden = embedding(batch.tensors.token_ids, self._model.embed_tokens.weight)
        angles = self._angles(hidden, batch.tensors.positions)
        for i in range(len(self._model.layers)):
            hidden = self._run_layer(i, hidden, angles, batch)
        last = _normalize(hidden[batch.tensors.rows], self._model.norm)
        logits: Tensor = self._head(last)
        return logits

    def _angles(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, [num_tokens, 1, head_dim]; the sines' first halves are negative."""
        cos, sin = (each[0, :, None] for each in self._model.rotary_emb(hidden, positions[None]))
        return cos, torch.cat([-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]], dim=-1)

    def _run_layer(self, i: int, hidden: Tensor, angles: tuple[Tensor, Tensor], batch: FlatBatch) -> Tensor:
        """One decoder layer: attention, then the MLP, each behind a norm, each added to what came in."""
        layer = self._model.layers[i]
        attention, mlp = layer.self_attn, layer.mlp
        normed = _normalize(hidden, layer.input_layernorm)
        queries, keys, values = (
            project(normed).unflatten(-1, (-1, attention.head_dim))
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if hasattr(attention, "q_norm"):  # Qwen3 normalizes queries and keys, head by head
            queries, keys = _normalize(queries, attention.q_norm), _normalize(keys, attention.k_norm)
        for part, new in zip(batch.kv_cache.layer(i), (_rotate(keys, *angles), values), strict=True):
            part.index_copy_(0, batch.tensors.slots, new)
        attended = attend_by_torch(i, _rotate(queries, *angles), batch, attention.scaling, self._windows[i])
        hidden = hidden + attention.o_proj(attended.flatten(1))
        normed = _normalize(hidden, layer.post_attention_layernorm)
        return hidden + mlp.down_proj(silu(mlp.gate_proj(normed)) * mlp.up_proj(normed))  # type: ignore[no-any-return]


def _normalize(x: Tensor, norm: Any) -> Tensor:
    return rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of each head, [num_tokens, num_heads, head_dim], by its token's angles."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), sin)
