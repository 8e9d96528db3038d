"""What may be handed to an LLM in place of a model's name."""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from folovllm.models.probe import UnsupportedModelError

_WRAPPED_IN = ("_orig_mod", "module", "base_model")
"""Where torch.compile, DataParallel and PEFT keep what they wrap."""


def check_given_model(model: Any, tokenizer: Any) -> None:
    """Raise a ValueError that says what was given, unless it is a loaded causal language model and its tokenizer."""
    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        inside = next((name for name in _WRAPPED_IN if isinstance(model, torch.nn.Module) and hasattr(model, name)), "")
        hint = f"; pass the model inside it, which it keeps as .{inside}" if inside else ""
        raise ValueError(f"model must be a transformers PreTrainedModel, got {_describe(model)}{hint}")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"tokenizer must be a transformers tokenizer (PreTrainedTokenizerBase), got {_describe(tokenizer)}"
        )
    if not model.can_generate():
        raise UnsupportedModelError(
            f"model must have a language-model head, as those of AutoModelForCausalLM have, got a {kind} without one"
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise UnsupportedModelError(
            f"model must have its weights in memory, got a {kind} with weights on the device 'meta', where offloading "
            "to the CPU or the disk leaves them; load it without"
        )


def _describe(given: Any) -> str:
    return repr(given) if isinstance(given, str | int | float | None) else f"a {type(given).__name__}"
