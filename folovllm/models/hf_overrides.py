"""Change a model's config before its weights load: a longer rope, another window, fewer layers.

(vLLM: ``hf_overrides``, in ``config/model.py`` and ``transformers_utils/config.py``.)
"""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from folovllm.models.config_checks import check_config
from folovllm.validation import did_you_mean

_OLD_NAMES = {"rope_scaling": "rope_parameters"}
_WITHOUT_EFFECT = {
    "architectures": "the engine goes by 'model_type'",
    "max_model_len": "it is a setting of its own: LLM(max_model_len=...)",
}


def override_config(config: PreTrainedConfig, overrides: Any) -> PreTrainedConfig:
    """Return a copy of ``config`` with ``overrides`` in it, checked and completed as one read from a file is.

    overrides: a dict of the config's keys, nested for a config inside a config (``text_config``); or a function that
        takes a config and returns one.
    Raises a ValueError for a key that the config does not know, or a value that it does not take or no model has.
    """
    before = config.to_dict()
    try:
        if callable(overrides):
            changed = overrides(copy.deepcopy(config))
            if not isinstance(changed, PreTrainedConfig):
                raise ValueError(f"the function must return a config, got {changed!r}")
            after = changed.to_dict()
            _check_known(after.keys() - before.keys(), _template(config, after))
        else:
            after = _merged(before, overrides, _template(config, overrides))
        _keep_theta(after, before)
        rebuilt = _rebuilt(before, after, config)
        check_config(rebuilt)
        return rebuilt
    except Exception as error:
        raise ValueError(f"ModelConfig.hf_overrides does not fit this model's {config.model_type}: {error}") from error


def _template(config: PreTrainedConfig, overrides: Mapping[str, Any]) -> PreTrainedConfig:
    """Return a config of the family that the overrides make it: theirs are the keys."""
    model_type = overrides.get("model_type", config.model_type)
    if model_type == config.model_type:
        return config
    if model_type not in CONFIG_MAPPING:
        hint = did_you_mean(model_type, CONFIG_MAPPING)
        raise ValueError(f"model_type must be one that transformers knows, got {model_type!r}{hint}")
    return AutoConfig.for_model(model_type)


def _merged(before: dict[str, Any], overrides: Mapping[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """Return a config's dict with the overrides in their places."""
    after = copy.deepcopy(before)
    for given, value in copy.deepcopy(dict(overrides)).items():
        key = config.attribute_map.get(given, _OLD_NAMES.get(given, given))
        rope = after.get("rope_parameters")
        if isinstance(rope, dict) and key in rope and key not in after:
            rope[key] = value  # rope_theta has moved in there
            continue
        _check_known([key], config)
        inner = getattr(config, key, None)
        if isinstance(inner, PreTrainedConfig) and isinstance(value, Mapping):
            value = _merged(after[key], value, inner)
        after[key] = value
    return after


def _keep_theta(after: dict[str, Any], before: dict[str, Any]) -> None:
    """New rope settings without a theta keep the old one: the family's default is rarely what a model learned with."""
    new, old = after.get("rope_parameters"), before.get("rope_parameters")
    if not isinstance(new, dict) or not isinstance(old, dict) or "rope_theta" not in old:
        return
    if new.get("rope_theta") is None and not any(isinstance(value, dict) for value in new.values()):
        new["rope_theta"] = old["rope_theta"]


def _check_known(keys: Any, config: PreTrainedConfig) -> None:
    known = config.to_dict()
    for key in sorted(keys):
        if key in _WITHOUT_EFFECT:
            raise ValueError(f"{key!r} has no effect in it; {_WITHOUT_EFFECT[key]}")
        if key not in known:
            raise ValueError(f"there is no key {key!r}{did_you_mean(key, known)}")


def _rebuilt(before: dict[str, Any], after: dict[str, Any], config: PreTrainedConfig) -> PreTrainedConfig:
    """Make a config of a dict. What the old one had derived from other keys is derived again."""
    layer_types = before.get("layer_types")
    if layer_types is not None and after.get("layer_types") == layer_types:
        derived = type(config).from_dict({key: before[key] for key in before if key != "layer_types"}).layer_types
        if derived == layer_types:
            del after["layer_types"]
    if after["model_type"] == before["model_type"]:
        return type(config).from_dict(after)
    return AutoConfig.for_model(**after)
