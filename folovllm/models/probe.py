"""Ask a model what its attention needs, before its weights exist.

The model is built on PyTorch's ``meta`` device (shapes without memory) and run once with an attention function that
only takes notes, and a mask function that is asked who sees whom. A model that needs what the paged attention does not
do is refused by name here, instead of loading and giving wrong tokens. What this cannot show, ``self_test.py`` does.
"""

import copy
import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging

from folovllm.free_memory import is_out_of_memory
from folovllm.models.attention_notes import AttentionNotes
from folovllm.models.attention_switch import Attention, run_with_attention
from folovllm.models.module_tree import structure_of

_KNOWN_CONFIGS = ("LlamaConfig", "MistralConfig", "Qwen2Config", "Qwen3Config")
_NUM_TOKENS = 13
"""A number that is no size of a model: whatever has so many elements has one a token."""

_MIXING = {"add", "div", "mul", "pow", "radd", "rmul", "rsub", "rtruediv", "sub", "true_divide", "truediv", "where"}
"""Functions whose result depends on the values of all their inputs; one that chooses does not."""


class UnsupportedModelError(ValueError):
    """The model needs something that this engine does not do."""


@contextmanager
def refusing(say: Callable[[], str]) -> Iterator[None]:
    """Refuse a model that fails here, with what ``say`` returns; too little memory is no fault of the model's."""
    try:
        yield
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError) or is_out_of_memory(error):
            raise
        raise UnsupportedModelError(say()) from error


@dataclass(frozen=True)
class AttentionSpec:
    """What the KV cache must hold, the same for every layer, and what each layer sees.

    num_layers: attention calls of a forward pass; one a layer in most models.
    head_dim: the largest size of a head, where keys and values or layers have different ones.
    windows: for each of them, how many latest positions a token sees, itself included; None for all before it.
        Empty: None for all.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        if not self.windows:
            object.__setattr__(self, "windows", (None,) * self.num_layers)

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes of keys and values that one token takes over all layers."""
        return self.num_layers * 2 * self.num_kv_heads * self.head_dim * dtype.itemsize


_known: WeakKeyDictionary[PreTrainedModel, tuple[object, AttentionSpec]] = WeakKeyDictionary()
"""What was found out about loaded models as they were then: building one on ``meta`` takes a third of a second."""


def remember_attention(model: PreTrainedModel, spec: AttentionSpec) -> None:
    """Note the attention of a model that was probed by its config before it was loaded."""
    _known[model] = structure_of(model), spec


def get_attention(model: PreTrainedModel, trust_remote_code: bool = False) -> AttentionSpec:
    """Return the attention of a loaded model; probe it (:func:`probe_attention`) if it is not known or has changed."""
    structure, spec = _known.get(model, (None, None))
    if spec is None or structure != structure_of(model):
        spec = probe_attention(model.config, trust_remote_code, type(model))
        remember_attention(model, spec)
    return spec


def probe_attention(
    config: PreTrainedConfig, trust_remote_code: bool = False, model_class: type[PreTrainedModel] | None = None
) -> AttentionSpec:
    """Return the attention's shape, or raise :class:`UnsupportedModelError` that says what is in the way.

    trust_remote_code: a model whose code comes with it cannot be built without.
    model_class: a loaded model's; by default the one that AutoModelForCausalLM takes for the config.
    """
    name = f"{config.model_type} ({', '.join(config.architectures or ['no architecture named'])})"
    _refuse_by_config(config, name)
    is_transformers_own = model_class is None or model_class.__module__.startswith("transformers.models.")
    if is_transformers_own and (known := _look_up(config)) is not None:
        return known
    notes = _run_on_meta(config, name, trust_remote_code, model_class)
    if notes.reasons:
        raise UnsupportedModelError(f"{name}: {notes.reasons[0]}")
    if len(notes.num_kv_heads) != 1:
        heads = ", ".join(map(str, sorted(notes.num_kv_heads)))
        raise UnsupportedModelError(f"{name}: its layers differ in their number of key and value heads: {heads}")
    return AttentionSpec(len(notes.windows), notes.num_kv_heads.pop(), max(notes.head_dims), tuple(notes.windows))


def _refuse_by_config(config: PreTrainedConfig, name: str) -> None:
    """Refuse what a run on shapes cannot show."""
    if config.is_encoder_decoder:
        raise UnsupportedModelError(f"{name}: it has an encoder; only decoders are supported")
    text_config = config.get_text_config()
    values = text_config.to_dict()
    for field in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        count = values.get(text_config.attribute_map.get(field, field))
        if isinstance(count, int) and count < 1:
            raise UnsupportedModelError(f"{name}: its config's {field} is {count}; at least 1 is needed")
    rope = getattr(text_config, "rope_parameters", None) or {}
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
    # Mistral has one window for all layers; Qwen lists the layers that have it; Llama has none.
    layer_types = getattr(config, "layer_types", None) or ["sliding_attention"] * config.num_hidden_layers
    window = getattr(config, "sliding_window", None)
    windows = tuple(window if layer_type == "sliding_attention" else None for layer_type in layer_types)
    return AttentionSpec(config.num_hidden_layers, config.num_key_value_heads, head_dim, windows)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers from reporting on a model that is thrown away at once."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _run_on_meta(
    config: PreTrainedConfig, name: str, trust_remote_code: bool, model_class: type[PreTrainedModel] | None
) -> AttentionNotes:
    build: Any = model_class._from_config if model_class else AutoModelForCausalLM.from_config
    options = {} if model_class else {"trust_remote_code": trust_remote_code}
    with torch.device("meta"), _quiet_transformers():
        with refusing(lambda: f"{name}: AutoModelForCausalLM cannot build a model from its config"):
            # A copy, because building writes to the config; bfloat16, because expert layers take nothing else.
            model = build(copy.deepcopy(config), dtype=torch.bfloat16, **options)
        notes = AttentionNotes(_NUM_TOKENS)
        tokens = torch.zeros(1, _NUM_TOKENS, dtype=torch.long)
        inputs = {"input_ids": tokens, "attention_mask": tokens, "position_ids": tokens, "use_cache": False}
        unlike = "its code needs other inputs than tokens, or looks at the values of its tensors to decide what to run"
        with refusing(lambda: f"{name}: {[*notes.reasons, unlike][0]}"), _OnShapes(notes):
            run_with_attention(Attention(notes.attend, notes.make_mask), model, **inputs)
    num_calls = len(notes.windows)
    num_layers = getattr(config.get_text_config(), "num_hidden_layers", num_calls)
    if num_calls < num_layers:
        notes.refuse(
            f"{num_calls or 'none'} of its {num_layers} layers use transformers' attention function; layers with a "
            "recurrent state or an attention of their own are not supported"
        )
    kept = [getattr(layer, "sliding_window", None) for layer in DynamicCache(config=config).layers]
    if too_few := set(kept) - {None, *notes.windows}:
        notes.refuse(f"its cache keeps {too_few.pop()} tokens, where its mask lets a token see others")
    if "position_ids" not in inspect.signature(model.forward).parameters:
        notes.refuse("its forward takes no position_ids: it counts the tokens of a row itself")
    return notes


class _OnShapes(TorchFunctionMode):
    """Stands in for values, and watches for positions that are counted from the row and calculated with.

    Tensors without values cannot say whether all of a mask is set or all positions rise: here they do. What is counted
    (``arange``) may choose among tensors; as a number in a product it makes a token depend on its place in the batch,
    perhaps only from some thousandth place on, where no trial would come to.
    """

    def __init__(self, notes: AttentionNotes) -> None:
        super().__init__()
        self._notes = notes
        self._counted: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.__bool__, Tensor.item) and args[0].is_meta:
            return True
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        inputs = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, Tensor)]
        if any(each is counted for each in inputs for counted in self._counted):
            if not result.is_floating_point():
                self._counted.append(result)
            elif func.__name__.strip("_") in _MIXING or not any(each.is_floating_point() for each in inputs):
                self._notes.refuse("it counts the positions of a row itself, and calculates with them")
        elif func is torch.arange and result.shape == (_NUM_TOKENS,):
            self._counted.append(result)
            if result.is_floating_point():
                self._notes.refuse("it counts the positions of a row itself, and calculates with them")
        return result
