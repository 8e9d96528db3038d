"""Unpack the bundled model's GGUF file into what ``from_pretrained`` loads fastest: float32 safetensors.

The file is known, a Llama with a byte-level tokenizer, so it is read once, straight, and without building a model:
transformers, which reads every kind, takes three times as long. Its result is the oracle of the tests, bit for bit.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from folovllm.models.bundled.source import BundledModelError, BundledSource

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of a Llama's weights, and Hugging Face's. The output layer is the embedding's: the weights are tied."""

_MOVED_TOGETHER = 2**24
"""Bytes."""


@dataclass(frozen=True)
class ConvertedModel:
    """All that a model's folder is made of. weights: float32, by Hugging Face's names."""

    config: "LlamaConfig"
    generation_config: "GenerationConfig"
    weights: dict[str, NDArray[np.float32]]
    tokenizer: "PreTrainedTokenizerFast"

    def save(self, folder: Path) -> None:
        """Write them into ``folder``, which must be new."""
        folder.mkdir()
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)
        save_aligned(self.weights, folder / "model.safetensors")
        self.tokenizer.save_pretrained(folder)


def save_aligned(weights: dict[str, NDArray[np.float32]], path: Path) -> None:
    """Write weights so that the first begins, in the file and so in memory, at a multiple of 64 bytes.

    A processor reads 64 bytes at once where they begin so, and twice as many elsewhere: the matrix products of the
    model take a fifth less time. The list before the weights may end with spaces; safetensors adds seven at most.
    """
    from safetensors.numpy import save_file

    save_file(weights, path, metadata={"format": "pt"})
    with path.open("r+b") as file:
        list_bytes = file.read(int.from_bytes(file.read(8), "little"))
        begin, stop = file.tell(), file.seek(0, os.SEEK_END)
        missing = -begin % 64
        while missing and stop > begin:  # the last numbers first: each makes room for those before it
            start = max(begin, stop - _MOVED_TOGETHER)
            file.seek(start)
            numbers = file.read(stop - start)
            file.seek(start + missing)
            file.write(numbers)
            stop = start
        file.seek(0)
        file.write((len(list_bytes) + missing).to_bytes(8, "little") + list_bytes + b" " * missing)


def convert(gguf: Path, source: BundledSource) -> ConvertedModel:
    """Return the model in a GGUF file, unpacked to float32.

    Raises :class:`BundledModelError` where a package is missing or of another kind than expected.
    """
    try:
        from gguf import GGUFReader
        from transformers import GenerationConfig

        reader = GGUFReader(gguf)
        config = _config(reader)
        tokenizer = _tokenizer(reader, gguf)
        weights = _weights(reader)
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        raise BundledModelError(
            f"{gguf.name} could not be converted: {type(error).__name__}: {error}\n"
            "Are the packages installed in the versions of the lock (transformers, gguf), and is 2 GB of memory free? "
            "`python -m folovllm doctor` tells."
        ) from error
    assert tokenizer.eos_token == source.eos_token, f"EOS is {tokenizer.eos_token}, not {source.eos_token}"
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    return ConvertedModel(config, GenerationConfig(**special), weights, tokenizer)  # type: ignore[no-untyped-call]


def _value(reader: "GGUFReader", key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise ValueError(f"the file says nothing of {key}")
    return field.contents()


def _config(reader: "GGUFReader") -> "LlamaConfig":
    from transformers import LlamaConfig

    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=_value(reader, "llama.vocab_size"),
        hidden_size=_value(reader, "llama.embedding_length"),
        intermediate_size=_value(reader, "llama.feed_forward_length"),
        num_hidden_layers=_value(reader, "llama.block_count"),
        num_attention_heads=_value(reader, "llama.attention.head_count"),
        num_key_value_heads=_value(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=_value(reader, "llama.context_length"),
        rms_norm_eps=_value(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": _value(reader, "llama.rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=_value(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=_value(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=_value(reader, "tokenizer.ggml.padding_token_id"),
    )


def _weights(reader: "GGUFReader") -> dict[str, NDArray[np.float32]]:
    from gguf import dequantize

    attention = "llama.attention.head_count"
    heads = {"attn_q": _value(reader, attention), "attn_k": _value(reader, f"{attention}_kv")}
    weights = {}
    for tensor in reader.tensors:
        *block, part, _ = tensor.name.split(".")  # blk.7.attn_q.weight, or output_norm.weight
        values = dequantize(tensor.data, tensor.tensor_type)
        if part in heads:
            values = _in_hugging_faces_order(values, heads[part])
        name = f"{_NAMES[part]}.weight"
        weights[f"model.layers.{block[1]}.{name}" if block else name] = values
    return weights


def _in_hugging_faces_order(values: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Sort the rows [heads * head size, columns] of a query's or key's weight.

    The two numbers that a rotary position turns together stand side by side in GGUF, here half a head apart.
    """
    columns = values.shape[1]
    return np.ascontiguousarray(values.reshape(num_heads, -1, 2, columns).swapaxes(1, 2)).reshape(values.shape)


def _tokenizer(reader: "GGUFReader", file: Path) -> "PreTrainedTokenizerFast":
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from folovllm.models.gguf_loader import split_words_the_way

    tokens, merges = (_value(reader, f"tokenizer.ggml.{key}") for key in ("tokens", "merges"))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, pairs, continuing_subword_prefix="", end_of_word_suffix=""))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])  # adds none
    split_words_the_way(_value(reader, "tokenizer.ggml.pre"), backend, file)
    kinds = _value(reader, "tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    named = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    special = {f"{name}_token": tokens[_value(reader, f"tokenizer.ggml.{key}_token_id")] for name, key in named.items()}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=_value(reader, "llama.context_length"),
        chat_template=_value(reader, "tokenizer.chat_template"),
        **special,
    )
