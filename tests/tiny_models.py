"""Tiny random models of many families, made on the spot: the unit tests load nothing."""

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from folovllm.llm import LLM, make_engine_config
from tests.tiny_tokenizers import byte_level_tokenizer

VOCAB_SIZE = 320
EOS_TOKEN_ID = 2

_LLAMA_LIKE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_GPT2_LIKE = {"vocab_size": VOCAB_SIZE, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
# Weights this large keep the logits of neighbours far apart, so that no near-tie decides a test.
_TOKENS = {"bos_token_id": 1, "eos_token_id": EOS_TOKEN_ID, "pad_token_id": 0, "initializer_range": 0.2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA_LIKE),
    "qwen2": ("Qwen2Config", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", _LLAMA_LIKE | {"head_dim": 16}),
    "mistral": ("MistralConfig", _LLAMA_LIKE | {"sliding_window": None}),
    "mistral-window": ("MistralConfig", _LLAMA_LIKE | {"sliding_window": 24}),
    "gpt2": ("GPT2Config", _GPT2_LIKE),
    "phi3": ("Phi3Config", _LLAMA_LIKE),
    "olmo2": ("Olmo2Config", _LLAMA_LIKE),
    "gemma": ("GemmaConfig", _LLAMA_LIKE | {"head_dim": 16}),
    "gemma3-window": ("Gemma3TextConfig", _LLAMA_LIKE | {"head_dim": 16, "sliding_window": 24}),
    "opt": (
        "OPTConfig",
        {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
        },
    ),
    "gpt-neox": ("GPTNeoXConfig", {k: v for k, v in _LLAMA_LIKE.items() if k != "num_key_value_heads"}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        _LLAMA_LIKE | {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
}

FLAT_FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "mistral-window")
"""Those that the engine has a forward pass of its own for; the default takes it."""


def tiny_config(family: str = "llama", **overrides: Any) -> transformers.PreTrainedConfig:
    """Return the config of a tiny model of one of the ``FAMILIES``."""
    class_name, settings = FAMILIES[family]
    return getattr(transformers, class_name)(**(settings | _TOKENS | overrides))


def tiny_model(family: str = "llama", **overrides: Any) -> PreTrainedModel:
    """Return a tiny random float32 model; the same weights every time."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(family, **overrides), dtype=torch.float32).eval()


def tiny_llm(
    model: PreTrainedModel | None = None, tokenizer: PreTrainedTokenizerBase | None = None, **settings: Any
) -> LLM:
    """Return an LLM around a tiny model."""
    # The default 4 GiB of swap space would be millions of the tiny model's blocks.
    config = make_engine_config("tiny", **({"swap_space": 0.001} | settings))
    return LLM.from_engine_config(config, model or tiny_model(), tokenizer or byte_level_tokenizer())


def hf_greedy(model: PreTrainedModel, prompt_token_ids: list[int], max_tokens: int) -> list[int]:
    """Return what HuggingFace's own ``generate`` gives, with its own attention."""
    prompt = torch.tensor([prompt_token_ids])
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_tokens, do_sample=False)
    return output[0, len(prompt_token_ids) :].tolist()
