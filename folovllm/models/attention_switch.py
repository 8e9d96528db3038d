"""Run a HuggingFace model with an attention function of ours, and leave the model as its owner has it.

A model looks up its attention function by a name in its config, and the config belongs to whoever made the model. So
nothing is written there: for the time of one call, and in the calling thread only, every config answers with our name.
An interrupt or an exception has nothing to put back, and another thread may use the same model with its own attention.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

_PLAIN_NAME = "folovllm"
_MASKED_NAME = "folovllm_masked"

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Attention:
    """What a model is to call instead of its own attention.

    function: as transformers' attention functions: module, query, key, value, attention_mask and keyword arguments to
        output [batch, num_tokens, num_heads, head_dim] and weights (None).
    make_mask: as transformers' mask functions; without one the model gets no mask.
    """

    function: Callable[..., tuple[Tensor, None]]
    make_mask: Callable[..., Any] | None = None


_current: ContextVar[Attention | None] = ContextVar("folovllm_attention", default=None)


def run_with_attention(attention: Attention, model: PreTrainedModel, **inputs: Any) -> Any:
    """Call ``model`` in evaluation mode with another attention than its own."""
    context = copy_context()
    context.run(_current.set, attention)
    with _evaluation_mode(model):
        return context.run(model, **inputs)


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute in the model's own dtype, also where its caller asks PyTorch for another one."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device in ("cpu", "cuda", "mps"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return run


_mode_lock = threading.RLock()


@contextmanager
def _evaluation_mode(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off for the time of a call; which modules train is their owner's choice."""
    with _mode_lock:
        training = [module for module in model.modules() if module.training]
        if training:
            try:
                for module in training:
                    module.training = False
                yield
            finally:
                for module in training:
                    module.training = True
            return
    yield


def _call_current(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    attention = _current.get()
    assert attention is not None, "configs answer with our name inside run_with_attention only"
    return attention.function(*args, **kwargs)


def _mask_current(*args: Any, **kwargs: Any) -> Any:
    attention = _current.get()
    assert attention is not None, "as above"
    assert attention.make_mask is not None, "else configs answer with the name that has no masks"
    return attention.make_mask(*args, **kwargs)


def _answer_with_our_name() -> None:
    """Let every config look for our name first where it keeps the name of its attention."""
    kept_as = "_attn_implementation_internal"

    def get(config: PreTrainedConfig) -> Any:
        attention = _current.get()
        if attention is not None:
            return _PLAIN_NAME if attention.make_mask is None else _MASKED_NAME
        if kept_as not in vars(config):
            raise AttributeError(kept_as)
        return vars(config)[kept_as]

    def put(config: PreTrainedConfig, value: Any) -> None:
        vars(config)[kept_as] = value

    setattr(PreTrainedConfig, kept_as, property(get, put))


AttentionInterface.register(_PLAIN_NAME, _call_current)
# No mask function goes with the first name: transformers then builds no mask and passes None.
AttentionInterface.register(_MASKED_NAME, _call_current)
AttentionMaskInterface.register(_MASKED_NAME, _mask_current)
_answer_with_our_name()
