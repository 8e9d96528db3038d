"""What a loaded model is made of: its tree of modules, looked at without running it.

Whoever hands over a model may have changed it: hooks, other classes, a ``forward`` of its own, layers added or dropped.
"""

import copy
from collections import OrderedDict
from typing import Any
from weakref import ref

import torch
from torch.nn.modules import module as torch_module
from transformers import PreTrainedModel

_SIMPLE = {bool, int, float, str}
_BY_TOKEN = ("lm_head", "model.embed_tokens")
"""Modules with a row for each token: some models have more or fewer of them than their config says."""

PLAIN_WEIGHTS = {torch.nn.Parameter}
"""Classes of weights that are numbers in memory and nothing more."""


def settings_of(module: Any) -> dict[str, Any]:
    """Return the numbers, switches and names that a module keeps; not whether it trains, nor its place."""
    simple = {name: value for name, value in vars(module).items() if type(value) in _SIMPLE}
    return {name: value for name, value in simple.items() if name not in ("training", "layer_idx")}


def structure_of(model: PreTrainedModel) -> object:
    """Return what a verdict on a model depends on, hooks and weights aside: equal as long as nothing has changed."""
    modules = []
    for name, module in model.named_modules(remove_duplicate=False):
        # Weakly: a patched forward mostly holds the model, which then would never be freed.
        patched = ref(vars(module)["forward"]) if "forward" in vars(module) else None
        modules.append((name, type(module), patched, settings_of(module)))
    return model.dtype, model.config.to_dict(), modules


def runs_stock_code(module: Any) -> bool:
    """Say whether a module's forward is what PyTorch or transformers have written; hooks are another matter."""
    home = getattr(type(module).forward, "__module__", "")
    return "forward" not in vars(module) and home.startswith(("torch.nn.", "transformers."))


def find_change(model: PreTrainedModel) -> str | None:
    """Return in what a model differs from what its class builds from its config, weights aside; None if in nothing."""
    num_layers = model.config.num_hidden_layers
    config = copy.deepcopy(model.config)
    vars(config)["num_hidden_layers"] = 1
    try:
        with torch.device("meta"):
            pattern = dict(type(model)(config).named_modules())
    except Exception as error:
        return f"transformers builds no model from its config ({type(error).__name__})"
    twins = {
        name.replace("layers.0", f"layers.{i}", 1): twin for name, twin in pattern.items() for i in range(num_layers)
    }
    found = dict(model.named_modules(remove_duplicate=False))
    if odd := sorted(twins.keys() ^ found.keys()):
        return f"it has {'a' if odd[0] in found else 'no'} module {odd[0]!r}"
    for name, module in found.items():
        if change := _change_of(module, twins[name], name in _BY_TOKEN):
            return f"its {name or type(module).__name__} {change}"
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "there are hooks for all modules"
    return None


def _change_of(module: Any, twin: Any, any_rows: bool) -> str | None:
    kind, expected = type(module), type(twin)
    if kind is not expected:
        return f"is of the class {kind.__name__}, not {expected.__name__}"
    if _shapes_of(module, any_rows) != _shapes_of(twin, any_rows):  # as pruning leaves it
        return "has parameters of other shapes than its config says"
    # Those of transformers' own modules depend on the layer; what our forward pass needs of them it reads itself.
    if kind.__module__.startswith("torch.") and _public(module, any_rows) != _public(twin, any_rows):
        return "has other settings than its config gives it"
    if module._forward_hooks or module._forward_pre_hooks:
        return "has hooks"
    if not runs_stock_code(module):
        return "has another forward than its class"
    if any(type(weight) not in PLAIN_WEIGHTS for weight in module._parameters.values() if weight is not None):
        return "has weights of a class of their own"
    return None


def _public(module: Any, any_rows: bool) -> dict[str, Any]:
    """Return a module's settings without the notes that libraries keep on it."""
    free = ("out_features", "num_embeddings") if any_rows else ()
    return {name: value for name, value in settings_of(module).items() if name[0] != "_" and name not in free}


def _shapes_of(module: Any, any_rows: bool) -> dict[str, object]:
    return {name: weight is not None and weight.shape[any_rows:] for name, weight in module._parameters.items()}


def without_hooks(module: Any, twins: dict[Any, Any] | None = None) -> Any:
    """Return a second tree of modules in evaluation mode, over the same parameters and configs."""
    twins = {} if twins is None else twins
    if module not in twins:
        # Not copy.copy: some classes of PyTorch refuse to be copied alone.
        twins[module] = twin = object.__new__(type(module))
        own: dict[str, Any] = {name: OrderedDict() for name in vars(module) if name.endswith("_hooks")}
        children = {name: child and without_hooks(child, twins) for name, child in module._modules.items()}
        vars(twin).update(vars(module) | own, _modules=children, _buffers=dict(module._buffers), training=False)
    return twins[module]
