"""Is what was loaded whole? transformers fills in what a checkpoint lacks: random weights, an empty vocabulary."""

import re
from collections.abc import Collection
from typing import Any

from torch.nn import ModuleList
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from folovllm.models.checkpoint import Checkpoint, compile_template, stored_dtypes

_NAMES_SHOWN = 3
_FLOATS = {"F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"}
_MASK = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias|causal_mask)$")
"""What a causal mask was called that GPT-2 and its kin once stored with every layer."""


def check_weights(
    checkpoint: Checkpoint, model: PreTrainedModel, stored: PreTrainedConfig, loading_info: dict[str, Any]
) -> None:
    """Raise a ValueError unless every weight of the model is the checkpoint's, and no part of it is left unread.

    stored: the checkpoint's own config, without hf_overrides.
    loading_info: transformers' account of the load; weights that are tied or computed are not in it.
    Whole modules beside the stack of layers that only the checkpoint has are left alone (a head for training, a tower
    for images), and so are layers that hf_overrides cut off or that only guess further tokens.
    """
    if missing := loading_info["missing_keys"]:
        raise ValueError(f"weights missing from the checkpoint: {_some(missing)}")
    if mismatched := loading_info["mismatched_keys"]:
        shapes = [f"{name} (stored {list(stored)}, needed {list(needed)})" for name, stored, needed in mismatched]
        raise ValueError(f"weights stored in another shape than the config asks for: {_some(shapes)}")
    if checkpoint.gguf_file is not None or getattr(model, "hf_quantizer", None) is not None:
        return
    if unread := _unread_weights(model, stored, loading_info["unexpected_keys"]):
        raise ValueError(f"weights in the checkpoint that a {model.config.model_type} lacks: {_some(unread)}")
    if quantized := _quantized_weights(checkpoint, model, loading_info["unexpected_keys"]):
        raise ValueError(f"weights in a dtype that needs a scale, but no quantization_config: {_some(quantized)}")


def _unread_weights(model: PreTrainedModel, stored: PreTrainedConfig, unexpected: Collection[str]) -> list[str]:
    """Return those of the unexpected weights that belong inside a module which the model has, layers included."""
    modules = {_bare(name, model): module for name, module in model.named_modules()}
    # What holds the stack of layers: the model, its base, in some families a decoder in that.
    holders = {"", model.base_model_prefix}
    for name, module in modules.items():
        parents = name.split(".")[:-1]
        if isinstance(module, ModuleList) and not any(part.isdigit() for part in parents):
            holders |= {".".join(parents[:length]) for length in range(1, len(parents) + 1)}
    unread = []
    for name in unexpected:
        owner, _, rest = _bare(name, model).rpartition(".")
        while owner not in modules:
            owner, _, last = owner.rpartition(".")
            rest = f"{last}.{rest}"
        module = modules[owner]
        in_cut_layer = isinstance(module, ModuleList) and _is_cut_layer(owner, rest, len(module), stored)
        if not (owner in holders or in_cut_layer or _MASK.search(name)):
            unread.append(name)
    return unread


def _is_cut_layer(owner: str, rest: str, num_layers: int, stored: PreTrainedConfig) -> bool:
    """Tell whether a weight is of a layer that the checkpoint has and the model was not to have.

    owner: the list of modules it belongs in, of length num_layers.  rest: its name in there.
    """
    text = stored.get_text_config()
    last = text.num_hidden_layers + (getattr(text, "num_nextn_predict_layers", None) or 0)
    index = rest.partition(".")[0]
    in_a_layer = any(part.isdigit() for part in owner.split("."))
    return not in_a_layer and index.isdigit() and num_layers <= int(index) < last


def _quantized_weights(checkpoint: Checkpoint, model: PreTrainedModel, unexpected: Collection[str]) -> list[str]:
    """Return the weights whose stored numbers mean nothing alone: transformers takes them as they are."""
    known = {_bare(name, model) for name, _ in model.named_parameters()}
    quantized = []
    for path in checkpoint.weight_files():
        for name, dtype in stored_dtypes(path).items():
            # Weights that transformers joins, such as experts, have other names in the model.
            is_read = _bare(name, model) in known or (name.endswith("weight") and name not in unexpected)
            if dtype not in _FLOATS and is_read:
                quantized.append(f"{name} ({dtype})")
    return quantized


def _bare(name: str, model: PreTrainedModel) -> str:
    """Return a weight's or module's name without the prefix that some checkpoints leave out ("model.")."""
    return name.removeprefix(f"{model.base_model_prefix}.")


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:_NAMES_SHOWN]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more ({len(names)} in all)" if more else "")


def check_tokenizer(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise a ValueError for a tokenizer that was made of nothing, or has parts of the wrong kind."""
    vocabularies = {"tokenizer.json", *type(tokenizer).vocab_files_names.values()}
    if checkpoint.gguf_file is None and not any(checkpoint.find(name) for name in vocabularies):
        raise ValueError(f"there is none of {', '.join(sorted(vocabularies))}")
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        if not isinstance(getattr(tokenizer, name), str | None):
            raise ValueError(f"{name} must be a string, got {getattr(tokenizer, name)!r}")
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ValueError(f"model_max_length must be a number, got {tokenizer.model_max_length!r}")
    template = tokenizer.chat_template
    for each in template.values() if isinstance(template, dict) else [template]:
        if each is not None:
            compile_template(each)
