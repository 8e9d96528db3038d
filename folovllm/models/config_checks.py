"""Can a model be built of a config at all? transformers asks late, with an error that names no key, or never."""

from typing import Any

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from folovllm.validation import real_number, whole_number

_SIZES = (
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "intermediate_size",
    "n_inner", "moe_intermediate_size", "vocab_size", "max_position_embeddings",
)  # fmt: skip
_EXPERTS = ("num_experts", "num_experts_per_tok")
_EPSILONS = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps", "norm_epsilon")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function")
_ROPE_TYPES = ("default", *ROPE_INIT_FUNCTIONS)


def check_config(config: PreTrainedConfig) -> None:
    """Raise a ValueError for sizes that no model has, and for words that transformers does not know."""
    text = config.get_text_config(decoder=True)
    values = text.to_dict()
    sizes = {name: values.get(text.attribute_map.get(name, name)) for name in _SIZES}
    for name, size in sizes.items():
        if isinstance(size, int):  # others: None, or one for each layer
            whole_number(text.attribute_map.get(name, name), size, minimum=1)
    heads, kv_heads = sizes["num_attention_heads"], sizes["num_key_value_heads"]
    if isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads:
        raise ValueError(f"num_attention_heads must be a multiple of num_key_value_heads, got {heads} and {kv_heads}")
    if isinstance(window := values.get("sliding_window"), int) and values.get("use_sliding_window", True):
        whole_number("sliding_window", window, minimum=1)
    experts, per_token = (values.get(text.attribute_map.get(name, name)) for name in _EXPERTS)
    if isinstance(experts, int) and experts > 0 and per_token is not None:
        whole_number("num_experts_per_tok", per_token, minimum=1, maximum=experts)
    for name in _EPSILONS:
        if values.get(name) is not None:
            real_number(name, values[name], minimum=0)
    for name in _ACTIVATIONS:
        if isinstance(values.get(name), str) and values[name] not in ACT2FN:
            raise ValueError(f"{name} must be one of {', '.join(sorted(ACT2FN))}, got {values[name]!r}")
    if isinstance(rope := values.get("rope_parameters"), dict):
        _check_rope(rope, text)


def _check_rope(rope: dict[str, Any], config: PreTrainedConfig) -> None:
    """Raise a ValueError for an unknown type of rope, and for settings at a place where the family does not look."""
    by_layer_type = _kinds(rope)
    for settings in [rope, *(rope[kind] for kind in by_layer_type)]:
        if settings.get("rope_type", "default") not in _ROPE_TYPES:
            raise ValueError(f"rope_type must be one of {', '.join(_ROPE_TYPES)}, got {settings['rope_type']!r}")
        if settings.get("rope_theta") is not None:
            real_number("rope_theta", settings["rope_theta"], minimum=0, above=True)
    if not by_layer_type:
        return
    kinds = _kinds_of_family(config)
    if unknown := sorted(by_layer_type - kinds):
        allowed = f"with settings for {', '.join(sorted(kinds))}" if kinds else "one set of settings for all layers"
        raise ValueError(f"rope_parameters of a {config.model_type} must be {allowed}, got some for {unknown[0]!r}")
    if rope.get("rope_type", "default") != "default":
        raise ValueError(
            f"rope_parameters of a {config.model_type} must be given for each of {', '.join(sorted(kinds))}, "
            f"got {rope['rope_type']!r} for all"
        )


def _kinds_of_family(config: PreTrainedConfig) -> set[str]:
    """Return the kinds of layer that a family looks for rope settings for; empty if it has one set for all layers."""
    own = type(config)().rope_parameters or {}  # a family completes its settings, which shows where it looks
    if "rope_type" in own:
        return set()
    return _kinds(own) | set(getattr(config, "layer_types", None) or ())


def _kinds(rope: dict[str, Any] | None) -> set[str]:
    """Return the kinds of layer that rope settings are given for; empty if they are for all layers."""
    return {kind for kind, settings in (rope or {}).items() if isinstance(settings, dict)}
