"""Ask a model what its attention needs, before its weights exist.

The model is built on PyTorch's ``meta`` device (shapes without memory) and run once on two tokens with an
attention function that only takes notes. A model that needs what the paged attention does not do
is refused by name here, instead of loading and giving wrong tokens.
"""

import copy
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging

_PROBE_NAME = "folovllm_probe"
_KNOWN_CONFIGS = ("LlamaConfig", "MistralConfig", "Qwen2Config", "Qwen3Config")
_HARMLESS = {
    "dropout", "is_causal", "output_attentions", "output_hidden_states", "output_router_logits", "past_key_values",
    "position_ids", "return_dict", "scaling", "sliding_window", "use_cache",
}  # fmt: skip


class UnsupportedModelError(ValueError):
    """The model needs something that this engine does not do."""


@dataclass(frozen=True)
class AttentionSpec:
    """What the KV cache must hold: the same for every layer."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes of keys and values that one token takes over all layers."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim * dtype.itemsize


@dataclass
class _Call:
    key_shape: torch.Size
    value_shape: torch.Size
    causal: bool
    masked: bool
    extras: list[str]


_known: WeakKeyDictionary[PreTrainedModel, AttentionSpec] = WeakKeyDictionary()
"""What was found out about loaded models: building one on ``meta`` takes a third of a second."""


def remember_attention(model: PreTrainedModel, spec: AttentionSpec) -> None:
    """Note the attention of a model that was probed by its config before it was loaded."""
    _known[model] = spec


def get_attention(model: PreTrainedModel, trust_remote_code: bool = False) -> AttentionSpec:
    """Return the attention of a loaded model; probe it (:func:`probe_attention`) if it is not known."""
    if model not in _known:
        remember_attention(model, probe_attention(model.config, trust_remote_code))
    return _known[model]


def probe_attention(config: PreTrainedConfig, trust_remote_code: bool = False) -> AttentionSpec:
    """Return the attention's shape, or raise :class:`UnsupportedModelError` that says what is in the way.

    trust_remote_code: a model whose code comes with it cannot be built without.
    """
    name = f"{config.model_type} ({', '.join(config.architectures or ['no architecture named'])})"
    _refuse_by_config(config, name)
    if (known := _look_up(config)) is not None:
        return known
    calls = _run_on_meta(config, name, trust_remote_code)
    num_layers = config.get_text_config().num_hidden_layers
    if sorted(calls) != list(range(num_layers)):
        raise UnsupportedModelError(
            f"{name}: {len(calls)} of its {num_layers} layers use plain attention; layers with a recurrent "
            "state, a shared cache or an attention of their own are not supported"
        )
    for call in calls.values():
        if call.extras:
            raise UnsupportedModelError(f"{name}: its attention needs {', '.join(call.extras)}, which is not supported")
        if not call.causal or call.masked:
            raise UnsupportedModelError(f"{name}: its attention is not plainly causal")
    shapes = {shape for call in calls.values() for shape in (call.key_shape, call.value_shape)}
    if len(shapes) != 1:
        raise UnsupportedModelError(f"{name}: its keys and values differ in shape: {sorted(map(tuple, shapes))}")
    _, num_kv_heads, _, head_dim = shapes.pop()
    return AttentionSpec(num_layers, num_kv_heads, head_dim)


def _refuse_by_config(config: PreTrainedConfig, name: str) -> None:
    """Refuse what a run of two tokens cannot show."""
    if config.is_encoder_decoder:
        raise UnsupportedModelError(f"{name}: it has an encoder; only decoders are supported")
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {v.get("rope_type") for v in rope.values() if isinstance(v, dict)}
    for kind in kinds & {"dynamic", "longrope"}:
        # These choose their angles by the longest sequence in the batch, so neighbours would change a result.
        raise UnsupportedModelError(f"{name}: rope type {kind!r} depends on the other sequences of a batch")


def _look_up(config: PreTrainedConfig) -> AttentionSpec | None:
    """Return the attention of a family that the engine knows by heart; building a model takes a third of a second."""
    kind = type(config)
    if not kind.__module__.startswith("transformers.models.") or kind.__name__ not in _KNOWN_CONFIGS:
        return None
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return AttentionSpec(config.num_hidden_layers, config.num_key_value_heads, head_dim)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from reporting on a model that is thrown away at once."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _run_on_meta(config: PreTrainedConfig, name: str, trust_remote_code: bool) -> dict[int, _Call]:
    calls: dict[int, _Call] = {}

    def take_notes(
        module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        causal = getattr(module, "is_causal", True) and kwargs.get("is_causal") is not False
        extras = sorted(k for k, v in kwargs.items() if k not in _HARMLESS and v is not None)
        calls[int(module.layer_idx)] = _Call(  # type: ignore[arg-type]
            key.shape, value.shape, causal, attention_mask is not None, extras
        )
        return query.transpose(1, 2), None

    AttentionInterface.register(_PROBE_NAME, take_notes)
    try:
        with torch.device("meta"), _quiet_transformers():
            # A copy, because from_config writes to the config; bfloat16, because expert layers take nothing else.
            model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                copy.deepcopy(config),
                dtype=torch.bfloat16,
                attn_implementation=_PROBE_NAME,
                trust_remote_code=trust_remote_code,
            )
            forward = inspect.signature(model.forward).parameters
            if missing := {"position_ids", "logits_to_keep"} - set(forward):
                raise UnsupportedModelError(f"{name}: its forward takes no {' and no '.join(sorted(missing))}")
            tokens = torch.zeros(1, 2, dtype=torch.long)
            last = torch.zeros(1, dtype=torch.long)
            model.eval()(
                input_ids=tokens, attention_mask=tokens, position_ids=tokens, use_cache=False, logits_to_keep=last
            )
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(f"{name}: cannot run with an attention function of ours: {error}") from error
    return calls
