"""Write a Llama-like model as a GGUF file, with its matrices in blocks of few bits: the way the bundled model came."""

import math
from pathlib import Path

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

_LONG_ROW = 2**14
"""gguf takes 16 rows at a time, and blocks lie one after the other: few long rows take a third of short ones' time."""


def quantize_and_back(values: Tensor, kind: str) -> Tensor:
    """Return what is left of float32 values [..., columns] after a GGUF block format.

    kind: "Q8_0", "Q4_1", "Q4_0" or another of the gguf package's; a block is 32 values of a row.
    """
    block_type = gguf.GGMLQuantizationType[kind]
    rows = values.float().cpu().numpy()
    if rows.shape[-1] % gguf.GGML_QUANT_SIZES[block_type][0] == 0:  # else gguf refuses them, by their shape
        rows = rows.reshape(-1, math.gcd(rows.size, _LONG_ROW))
    with np.errstate(over="ignore", invalid="ignore"):  # gguf's way to a block of zeros, where a scale underflows
        blocks = gguf.quants.quantize(rows, block_type)
    return torch.from_numpy(gguf.quants.dequantize(blocks, block_type)).reshape(values.shape)


@torch.no_grad()
def quantize_weights(model: PreTrainedModel, kind: str) -> None:
    """Replace every matrix of a model by what a GGUF block format leaves of it; vectors stay, as in GGUF files."""
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.copy_(quantize_and_back(weight, kind))


def write_gguf(model: PreTrainedModel, path: Path, kind: str) -> None:
    """Write a Llama's config and weights, without a tokenizer. kind: of its matrices, see :func:`quantize_and_back`."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.named_parameters():
        values = _in_gguf_order(name, weight.detach().float().cpu(), config).numpy()
        block_type = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        gguf_name = names.get_name(name, try_suffixes=(".weight",))
        assert gguf_name is not None, f"GGUF has a name for {name}"
        blocks: NDArray[np.uint8] = gguf.quants.quantize(values, block_type)
        writer.add_tensor(gguf_name, blocks, raw_dtype=block_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _in_gguf_order(name: str, weight: Tensor, config: PreTrainedConfig) -> Tensor:
    """Return a weight with its rows as GGUF wants them.

    The two numbers that a rotary position turns together stand side by side there, and half a head apart in
    Hugging Face's order.
    """
    if "q_proj" in name:
        num_heads = config.num_attention_heads
    elif "k_proj" in name:
        num_heads = config.num_key_value_heads
    else:
        return weight
    return weight.reshape(num_heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
