"""A small random model of every causal-LM family of transformers, and what the engine makes of it."""

import io
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from folovllm import SamplingParams
from folovllm.models.decoder import why_not_flat
from folovllm.models.probe import UnsupportedModelError, probe_attention
from tests.tiny_models import VOCAB_SIZE, tiny_llm

ALL_FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)

# Wherever a config has such a field.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "embedding_dim"], 64),
    **dict.fromkeys(["word_embed_proj_dim", "hidden_size_global", "attention_hidden_size", "lru_width"], 64),
    **dict.fromkeys(["input_embedding_size", "output_embedding_size", "dim_model_base"], 64),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "d_ff", "dff", "dim_ff", "d_inner", "feed_forward_size"], 96),
    **dict.fromkeys(["decoder_ffn_dim", "encoder_ffn_dim", "intermediate_size_mlp", "ffn_hidden_size"], 96),
    **dict.fromkeys(["dense_intermediate_size", "n_inner"], 96),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"], 32),
    **dict.fromkeys(["shared_experts_intermediate_size", "moe_shared_expert_intermediate_size"], 32),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"], 4),
    **dict.fromkeys(["decoder_attention_heads", "encoder_attention_heads", "swa_num_attention_heads"], 4),
    **dict.fromkeys(["num_encoder_attention_heads", "num_decoder_attention_heads"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "kv_n_heads", "swa_num_key_value_heads"], 2),
    **dict.fromkeys(["head_dim", "d_head", "d_kv", "dim_head", "swa_head_dim", "kv_channels"], 16),
    **dict.fromkeys(["attention_head_size", "attention_head_dim", "linear_head_dim"], 16),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"], 2),
    **dict.fromkeys(["num_encoder_layers", "num_decoder_layers", "num_blocks", "num_layers_per_stack"], 2),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "model_max_length"], 512),
    **dict.fromkeys(["context_length", "max_target_positions"], 512),
    **dict.fromkeys(["sliding_window", "window_size", "attention_window_size", "sliding_window_size"], 8),
    **dict.fromkeys(["local_attention", "keep_window_size"], 8),
    **dict.fromkeys(["attention_chunk_size", "chunk_size", "mamba_chunk_size", "block_size"], 8),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"], 2),
    **dict.fromkeys(["n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "n_group"], 1),
    **dict.fromkeys(["topk_group", "num_expert_group"], 1),
    **dict.fromkeys(["qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"], 8),
    "qk_head_dim": 16,
    "v_head_dim": 12,
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "o_lora_rank", "gated_norm_rank", "adapter_rank"], 32),
    **dict.fromkeys(["index_head_dim", "linear_key_head_dim", "linear_value_head_dim", "mamba_head_dim"], 16),
    **dict.fromkeys(["mamba_d_head", "mamba_headdim"], 16),
    **dict.fromkeys(["index_n_heads", "linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"], 4),
    **dict.fromkeys(["mamba_num_heads", "mamba_n_heads", "n_mamba_heads"], 8),
    **dict.fromkeys(["mamba_d_state", "ssm_state_size", "state_size"], 16),
    **dict.fromkeys(["index_topk", "rel_extent", "index_block_size", "mamba_dt_rank", "time_step_rank"], 8),
    **dict.fromkeys(["vocab_size_per_layer_input", "decoder_vocab_size", "unpadded_vocab_size"], VOCAB_SIZE),
    "vocab_size": VOCAB_SIZE,
    "query_pre_attn_scalar": 16,
    "hidden_size_per_layer_input": 8,
    "first_k_dense_replace": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "use_sliding_window": True,
    "is_decoder": True,
    "depth": 2,
}
# Weights this large keep the logits of neighbours far apart, so that few near-ties decide.
_INITIALIZERS = ("initializer_range", "init_std", "initializer_factor", "embed_init_std", "init_method_std")
_NUM_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")

# What a family's sizes need beside: each of these is a rule of that config or of that model's code.
_DEFAULT = object()
_CONV_AND_ATTENTION = {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}
_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
_SLIDING_THEN_FULL = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
_OWN: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": _SLIDING_THEN_FULL
    | {"rope_parameters": dict.fromkeys(_SLIDING_THEN_FULL["layer_types"], _ROPE)},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
    },
    "dots3_note_audio_encoder": {"adapter_input_size": 64, "adapter_out_dim": 64, "adapter_merge_size": 1},
    "dots3_note_vision_encoder": {"adapter_in_dim": 64, "adapter_out_dim": 64},
    "falcon": {"head_dim": _DEFAULT},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [96] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": _SLIDING_THEN_FULL | {"global_head_dim": 32},
    "gemma4_unified_text": _SLIDING_THEN_FULL | {"global_head_dim": 32},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {"num_layers_per_stack": _DEFAULT},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": _CONV_AND_ATTENTION,
    "lfm2_moe": _CONV_AND_ATTENTION | {"num_dense_layers": 1},
    "mamba2": {"num_heads": 8},
    "prophetnet": {"num_hidden_layers": _DEFAULT},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "layer_types": ["linear_attention", "indexed_attention"],
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [16, 48],
        "attn_layers": ["local", "lsh"],
        "num_hidden_layers": _DEFAULT,
    },
    "xlnet": {"max_position_embeddings": _DEFAULT},
    "xlstm": {"v_head_dim": _DEFAULT, "qk_head_dim": _DEFAULT},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "n_mamba_heads": 2,
    },
    "zamba2": dict.fromkeys(["attention_hidden_size", "attention_head_dim", "kv_channels", "mamba_headdim"], _DEFAULT)
    | {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}


def small_config(family: str, **overrides: Any) -> PreTrainedConfig:
    """Return a config of the family with every size made small; each kind of layer it has is there."""
    config_class = CONFIG_MAPPING[family]
    settings = _small_settings(config_class) | _OWN.get(family, {}) | overrides
    return config_class(**{name: value for name, value in settings.items() if value is not _DEFAULT})


def _small_settings(config_class: type[PreTrainedConfig]) -> dict[str, Any]:
    default = config_class()
    fields = vars(default)
    settings = {name: size for name, size in _SIZES.items() if name in fields or hasattr(config_class, name)}
    settings |= {name: 0.2 for name in _INITIALIZERS if isinstance(fields.get(name), float)}
    if "kv_lora_rank" in settings:  # latent attention has no groups of heads, and rotates a part of its own
        settings["num_key_value_heads"] = settings["num_attention_heads"]
        settings["head_dim"] = settings["qk_rope_head_dim"]
    settings |= _few_layers(default)
    for name in config_class.sub_configs:
        if isinstance(fields.get(name), PreTrainedConfig):
            sub_class = type(fields[name])
            own = _OWN.get(sub_class.model_type, {})
            settings[name] = {k: v for k, v in (_small_settings(sub_class) | own).items() if v is not _DEFAULT}
    return settings


def _few_layers(default: PreTrainedConfig) -> dict[str, Any]:
    """Shorten every list that has one entry a layer, to the first layer of each kind, and two at least."""
    name = next((name for name in _NUM_LAYERS if isinstance(vars(default).get(name), int)), None)
    if name is None:
        return {}
    count = getattr(default, name)
    lists = {
        key: value
        for key, value in vars(default).items()
        if isinstance(value, list) and len(value) == count and not key.startswith("_")
    }
    if not lists:
        return {}
    kinds: dict[Any, int] = {}
    for layer, kind in enumerate(zip(*lists.values(), strict=True)):
        kinds.setdefault(repr(kind), layer)
    kept = sorted(kinds.values())
    kept = kept if len(kept) > 1 else [0, count - 1]
    return {name: len(kept)} | {key: [value[layer] for layer in kept] for key, value in lists.items()}


@dataclass(frozen=True)
class Verdict:
    """What came of a family.

    kind: "equal", "refused" (detail: the sentence), "not buildable", "wrong" or "dead".
    """

    family: str
    kind: str
    detail: str = ""


PROMPTS = [[3 + (7 * i * i + 11 * i + 5) % (VOCAB_SIZE - 3) for i in range(40)], [17, 301, 42, 250, 99]]
NUM_TOKENS = 12


def small_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def try_family(family: str, config: PreTrainedConfig | None = None) -> Verdict:
    """Build a small model, and compare the engine's greedy tokens with HuggingFace's."""
    # Some families print what they think of their inputs.
    with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):
        try:
            config = config or small_config(family)
        except Exception as error:
            return Verdict(family, "not buildable", f"{type(error).__name__}: {error}")
        try:
            model = small_model(config)
        except Exception as error:
            return _by_config(family, config, error)
        expected = [_huggingface(model, prompt) for prompt in PROMPTS]
        for model_impl in ["auto"] if why_not_flat(model) else ["folovllm", "transformers"]:
            verdict = _compare(family, model, expected, model_impl)
            if verdict.kind != "equal":
                return verdict
        return verdict


def _by_config(family: str, config: PreTrainedConfig, error: Exception) -> Verdict:
    """Say what the engine makes of a model that HuggingFace cannot build: it looks at the config first."""
    try:
        probe_attention(config)
    except UnsupportedModelError as refusal:
        if not isinstance(refusal.__cause__, Exception):
            return Verdict(family, "refused", str(refusal))
    return Verdict(family, "not buildable", f"{type(error).__name__}: {error}")


def _huggingface(model: PreTrainedModel, prompt: list[int]) -> list[int] | None:
    """Return the greedy tokens; None where HuggingFace's own code does not run on token ids alone."""
    ids = torch.tensor([prompt])
    try:
        output = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False)
    except Exception:
        return None
    return output[0, len(prompt) :].tolist()


def _compare(family: str, model: PreTrainedModel, expected: list[list[int] | None], model_impl: str) -> Verdict:
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True)
    try:
        llm = tiny_llm(model, block_size=4, max_num_batched_tokens=16, max_num_seqs=4, model_impl=model_impl)
    except UnsupportedModelError as error:
        inner = str(error.__cause__ or "no cause")
        return Verdict(family, "dead" if inner in str(error) else "refused", str(error))
    except Exception as error:
        return Verdict(family, "dead", f"at load: {type(error).__name__}: {error}")
    try:
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], params, use_tqdm=False)
    except Exception as error:
        return Verdict(family, "dead", f"{type(error).__name__}: {error}")
    for prompt, output, right in zip(PROMPTS, outputs, expected, strict=True):
        if right is None:
            return Verdict(family, "not buildable", "HuggingFace's generate does not run on token ids")
        ours = output.outputs[0].token_ids
        if ours != right and not _is_a_tie(model, prompt, ours, right):
            return Verdict(family, "wrong", f"{model_impl}: {ours} instead of {right}")
    return Verdict(family, "equal")


@torch.inference_mode()
def _is_a_tie(model: PreTrainedModel, prompt: list[int], ours: list[int], right: list[int]) -> bool:
    """Say whether HuggingFace's own logits are as good as equal where the tokens first differ."""
    first = next(i for i, pair in enumerate(zip(ours, right, strict=True)) if pair[0] != pair[1])
    logits = model(torch.tensor([prompt + right[:first]]), use_cache=False).logits[0, -1]
    return bool((logits[right[first]] - logits[ours[first]]).abs() < 1e-4 * logits.std())
