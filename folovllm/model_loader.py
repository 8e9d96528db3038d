"""Load a model and its tokenizer, and decide what its config leaves open.

(vLLM: ``model_executor/model_loader/``, ``config/model.py``.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import logging as transformers_logging

from folovllm import bundled_model
from folovllm.config import BUNDLED_MODEL, EngineConfig, ModelConfig, resolve_dtype, resolve_max_model_len
from folovllm.engine.model_probe import probe_attention, remember_attention
from folovllm.free_memory import is_out_of_memory, out_of_memory_explained


def resolve_device(device: str) -> torch.device:
    """Turn "auto" into cuda, else mps, else cpu; a ValueError for a device that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device must be one that is there, got {device!r}; CUDA devices: {torch.cuda.device_count()}")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device must be one that is there, got {device!r}; this machine has no MPS")
    return chosen


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for a load from disk, which takes a second (downloads have their own)."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def get_eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, frozenset[int]]:
    """Return the token that ends a text, and further ones that the generation config lists.

    The generation config decides; the model's config and the tokenizer only fill in for it.
    """
    listed = getattr(model.generation_config, "eos_token_id", None)
    if listed is None:
        listed = getattr(model.config.get_text_config(), "eos_token_id", None)
    if listed is None:
        listed = tokenizer.eos_token_id
    ids = [] if listed is None else [listed] if isinstance(listed, int) else list(listed)
    if not ids:
        return None, frozenset()
    first = tokenizer.eos_token_id if tokenizer.eos_token_id in ids else ids[0]
    return first, frozenset(ids) - {first}


class ModelLoader:
    """Loads what a :class:`ModelConfig` names."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @out_of_memory_explained()
    def load_model_and_tokenizer(self, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model, in its dtype and on its device, and its tokenizer.

        A model that the engine cannot run is refused (:class:`UnsupportedModelError`) before its weights load.
        """
        target = resolve_device(device)
        path = _locate(self.config.model)
        hf_config: PreTrainedConfig = self._load("config", AutoConfig, path)
        attention = probe_attention(hf_config, self.config.trust_remote_code)
        dtype = getattr(torch, self._resolve_dtype(hf_config, target))
        model: PreTrainedModel = self._load("model", AutoModelForCausalLM, path, config=hf_config, dtype=dtype)
        tokenizer: PreTrainedTokenizerBase = self._load("tokenizer", AutoTokenizer, _locate(self.config.tokenizer))
        remember_attention(model, attention)
        return model.to(target).eval(), tokenizer  # type: ignore[arg-type]

    def _load(self, what: str, auto_class: Any, path: str, **options: Any) -> Any:
        try:
            with _no_progress_bar():
                return auto_class.from_pretrained(path, trust_remote_code=self.config.trust_remote_code, **options)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"ModelConfig.{what if what == 'tokenizer' else 'model'}={path!r}: its {what} cannot be loaded "
                f"(a folder or, online, a hub name is allowed): {error}"
            ) from error

    def _resolve_dtype(self, hf_config: PreTrainedConfig, device: torch.device) -> str:
        stored = getattr(hf_config, "dtype", None)
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        checkpoint_dtype = None if stored is None else str(stored).removeprefix("torch.")
        return resolve_dtype(self.config.dtype, checkpoint_dtype, hf_config.model_type, device.type, capability)

    @staticmethod
    def resolve(config: EngineConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> EngineConfig:
        """Return ``config`` with everything decided that depends on the loaded model."""
        dtype, asked = str(model.dtype).removeprefix("torch."), config.model_config.dtype
        if asked not in ("auto", dtype):
            raise ValueError(f"ModelConfig.dtype must be 'auto' or the given model's {dtype!r}, got {asked!r}")
        if config.device != "auto" and torch.device(config.device).type != model.device.type:
            raise ValueError(
                f"EngineConfig.device must be 'auto' or the given model's '{model.device}', got {config.device!r}"
            )
        max_model_len = resolve_max_model_len(
            model.config.to_dict(), tokenizer.model_max_length, config.model_config.max_model_len
        )
        return config.resolve(dtype=dtype, max_model_len=max_model_len, device=str(model.device))


def _locate(name: str) -> str:
    """Return the bundled model's folder for its name; any other name is its own."""
    return str(bundled_model.obtain()) if name == BUNDLED_MODEL else name


def get_model_and_tokenizer(
    config: ModelConfig, device: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a loaded model and its tokenizer: the factory in front of :class:`ModelLoader`."""
    return ModelLoader(config).load_model_and_tokenizer(device)
