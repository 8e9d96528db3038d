"""Decide what a config leaves open once the model is known: its dtype, and how long a text may be."""

import warnings
from collections.abc import Mapping
from typing import Any, TypeGuard

from folovllm.validation import real_number

_DEFAULT_MAX_MODEL_LEN = 2048


def resolve_dtype(
    dtype: str,
    checkpoint_dtype: str | None,
    model_type: str,
    device_type: str,
    cuda_capability: tuple[int, int] | None = None,
) -> str:
    """Decide the dtype that a model runs in.

    dtype: what was asked for.  checkpoint_dtype: what the weights are stored in, None if unknown.
    device_type: "cpu", "cuda" or "mps".  cuda_capability: of the card, for "cuda".

    "auto" is float32 on the CPU; on CUDA the checkpoint's dtype, with bfloat16 for float32 and
    unknown ones, and float16 where the card has no bfloat16 (below 8.0); float16 on MPS. Gemma 2 and
    3, GLM-4 and PLaMo 2 overflow in float16: it is refused for them, and "auto" takes float32 instead. (vLLM:
    ``config/model.py``, ``_get_and_verify_dtype`` and ``_FLOAT16_NOT_SUPPORTED_MODELS``.)
    """
    overflows = model_type.startswith(("gemma2", "gemma3")) or model_type in ("glm4", "plamo2")
    if dtype != "auto":
        if dtype == "float16" and overflows:
            raise ValueError(
                f"ModelConfig.dtype must not be 'float16' for {model_type}, whose activations overflow in it; "
                "take 'bfloat16' or 'float32', got 'float16'"
            )
        return dtype
    if device_type == "cpu":
        return "float32"
    if device_type == "cuda":
        has_bfloat16 = cuda_capability is not None and cuda_capability >= (8, 0)
        chosen = "float16" if checkpoint_dtype == "float16" or not has_bfloat16 else "bfloat16"
    else:
        chosen = "float16"
    return "float32" if chosen == "float16" and overflows else chosen


_LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
    "max_target_positions",
)
_ROPE_TYPES_THAT_INCLUDE_THE_FACTOR = {"default", "mrope", "llama3", "longrope", "su"}
_YARN = {"yarn", "deepseek_yarn", "telechat3-yarn"}
_NO_LIMIT = 10**9
"""Tokenizers without a limit report a huge number; from here on up nothing is taken for a limit."""


def resolve_max_model_len(
    hf_config: Mapping[str, Any], tokenizer_max_length: int | None = None, requested: int | None = None
) -> int:
    """Decide how many tokens prompt and output may have together.

    hf_config: the model's ``config.json``.  tokenizer_max_length: its ``model_max_length``.
    requested: what was asked for; a ValueError if the model cannot do it.

    The smallest of all known keys and the tokenizer's, as far as rope scaling stretches it; 2048 with a warning if
    nothing is known. A ``model_max_length`` in the config decides instead of its other keys, and longrope starts at
    the length before stretching unless more is asked for. (vLLM: ``config/model.py``, ``_get_and_verify_max_len``.)
    """
    text_config = {**hf_config, **(hf_config.get("text_config") or {})}
    keys = ("model_max_length",) if _is_limit(text_config.get("model_max_length")) else _LENGTH_KEYS
    known = [text_config[key] for key in keys if _is_limit(text_config.get(key))]
    if tokenizer_max_length is not None and _is_limit(tokenizer_max_length):
        known.append(tokenizer_max_length)
    if not known:
        if requested is not None:
            return requested
        warnings.warn(
            f"the model's config names no length limit; max_model_len is set to {_DEFAULT_MAX_MODEL_LEN}", stacklevel=2
        )
        return _DEFAULT_MAX_MODEL_LEN
    limit = _stretched(min(known), text_config)
    if requested is not None and requested > limit:
        raise ValueError(f"ModelConfig.max_model_len must be at most {limit}, the model's own limit, got {requested}")
    if requested is not None:
        return requested
    short = text_config.get("original_max_position_embeddings")
    is_longrope = any(_rope_type(rope) in ("longrope", "su") for rope in _rope_settings(text_config))
    return min(limit, int(short)) if is_longrope and _is_limit(short) else limit


def _is_limit(length: Any) -> TypeGuard[int | float]:
    """Say whether a config's or tokenizer's entry limits anything: there are also None, -1 and 1e30."""
    return isinstance(length, int | float) and not isinstance(length, bool) and 1 <= length < _NO_LIMIT


def _rope_settings(text_config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rotary settings of each kind of layers; those without rotary positions have none."""
    rope = text_config.get("rope_scaling") or text_config.get("rope_parameters") or {}
    kinds = [value for value in rope.values() if isinstance(value, Mapping)]
    return kinds or [rope]


def _rope_type(rope: Mapping[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def _stretched(length: float, text_config: Mapping[str, Any]) -> int:
    """Return how far rotary positions reach that were made for ``length``: the least of all kinds of layers.

    Most rope types are counted in already, and linear and dynamic ones multiply. YaRN reaches its original length times
    the factor, whatever else is written: model cards tell users to add it, and not to change other entries. (vLLM 0.33
    then wants ``max_position_embeddings`` written anew; it multiplied until September 2026.)
    """
    if "gemma3" in str(text_config.get("model_type")):
        return int(length)  # it is the stretched one, whatever the type
    reached: list[float] = []
    for rope in _rope_settings(text_config):
        kind, factor = _rope_type(rope), rope.get("factor")
        if factor is None or kind in _ROPE_TYPES_THAT_INCLUDE_THE_FACTOR:
            continue
        factor = real_number("the config's rope factor", factor, 0.0, above=True)
        if kind in _YARN:
            original = rope.get("original_max_position_embeddings") or text_config.get("max_position_embeddings")
            reached.append(max(length, original * factor) if _is_limit(original) else length)
        else:
            reached.append(length * factor)
    return int(min(reached, default=length))
