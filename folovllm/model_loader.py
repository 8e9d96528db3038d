"""Load a model and its tokenizer, and decide what its config leaves open.

(vLLM: ``model_executor/model_loader/``, ``config/model.py``.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import logging as transformers_logging

from folovllm.config import EngineConfig, ModelConfig
from folovllm.free_memory import out_of_memory_explained, return_freed_memory
from folovllm.models.checkpoint import Checkpoint
from folovllm.models.config_checks import check_config
from folovllm.models.defaults import resolve_dtype, resolve_max_model_len
from folovllm.models.gguf_loader import check_what_was_read, read_gguf, split_as_the_file_says
from folovllm.models.hf_overrides import override_config
from folovllm.models.load_checks import check_tokenizer, check_weights
from folovllm.models.probe import probe_attention, remember_attention
from folovllm.sampling_params import SamplingParams
from folovllm.validation import whole_number

SETTINGS_OF_THE_WEIGHTS = ("hf_overrides", "revision", "tokenizer_revision")
"""Fields of a ``ModelConfig`` that are spent once a model is loaded."""

_loaded_with: WeakKeyDictionary[PreTrainedModel, dict[str, Any]] = WeakKeyDictionary()


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
    every = [] if listed is None else listed if isinstance(listed, list) else [listed]
    ids = [whole_number("eos_token_id of the model's generation config", each) for each in every]
    if not ids:
        return None, frozenset()
    first = tokenizer.eos_token_id if tokenizer.eos_token_id in ids else ids[0]
    return first, frozenset(ids) - {first}


_RECOMMENDED = ("repetition_penalty", "temperature", "top_k", "top_p", "min_p", "max_new_tokens")


def recommended_sampling_params(model: PreTrainedModel) -> SamplingParams:
    """Return the sampling parameters that a model's generation config names; the others have our defaults.

    (vLLM: ``config/model.py``, ``get_diff_sampling_param``; it reads the same six.)
    """
    # Only what differs from HuggingFace's defaults was said by anybody.
    said = {} if model.generation_config is None else model.generation_config.to_diff_dict()
    wanted = {name: said[name] for name in _RECOMMENDED if said.get(name) is not None}
    if "max_new_tokens" in wanted:
        wanted["max_tokens"] = wanted.pop("max_new_tokens")
    try:
        return SamplingParams(**wanted)
    except ValueError as error:
        raise ValueError(f"the model's generation config recommends {wanted}, but {error}") from error


class ModelLoader:
    """Loads what a :class:`ModelConfig` names."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    @out_of_memory_explained()
    def load_model_and_tokenizer(self, device: str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the model, in its dtype and on its device, and its tokenizer.

        A model that the engine cannot run is refused (:class:`UnsupportedModelError`) before its weights load. A
        ValueError names what else is wrong: a broken or missing file, weights that the checkpoint lacks.
        """
        config, target = self.config, resolve_device(device)
        source = Checkpoint.locate("model", config.model, config.revision)
        tokenizer_source = Checkpoint.locate("tokenizer", *config.tokenizer_source)
        with source.reading("config"):
            hf_config = stored = self._read(AutoConfig, source)
            if config.hf_overrides is None:
                check_config(stored)
        if config.hf_overrides is not None:
            hf_config = override_config(stored, config.hf_overrides)
        with source.reading("config"):
            attention = probe_attention(hf_config, config.trust_remote_code)
            dtype = getattr(torch, self._resolve_dtype(hf_config, target))
        with source.reading("model"):
            model = self._load_weights(source, hf_config, stored, dtype)
        with tokenizer_source.reading("tokenizer"):
            tokenizer: PreTrainedTokenizerBase = self._read(AutoTokenizer, tokenizer_source)
            if tokenizer_source.gguf_file is not None:
                split_as_the_file_says(tokenizer, tokenizer_source.gguf_file)
            check_tokenizer(tokenizer_source, tokenizer)
        if (eos := hf_config.get_text_config().eos_token_id) != stored.get_text_config().eos_token_id:
            model.generation_config.eos_token_id = eos  # overridden, where the generation config has a file of its own
        with source.reading("generation config"):
            get_eos_token_ids(model, tokenizer)
        remember_attention(model, attention)
        _loaded_with[model] = {name: getattr(config, name) for name in SETTINGS_OF_THE_WEIGHTS}
        model.to(target).eval()  # type: ignore[arg-type]
        return_freed_memory()
        return model, tokenizer

    def _read(self, auto_class: Any, source: Checkpoint, **options: Any) -> Any:
        options["trust_remote_code"] = self.config.trust_remote_code
        with _no_progress_bar():
            if source.gguf_file is not None:
                return read_gguf(auto_class, source.gguf_file, **options)
            return auto_class.from_pretrained(source.path, revision=source.revision, **options)

    def _load_weights(
        self, source: Checkpoint, hf_config: PreTrainedConfig, stored: PreTrainedConfig, dtype: torch.dtype
    ) -> PreTrainedModel:
        # Sizes that do not fit are let through here only to be named together below.
        options = {"config": hf_config, "dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True}
        if source.gguf_file is not None:
            options["quantization_config"] = GgufConfig(dequantize=True)
        model, loading_info = self._read(AutoModelForCausalLM, source, **options)
        check_weights(source, model, stored, loading_info)
        if source.gguf_file is not None:
            check_what_was_read(source.gguf_file, hf_config, stored, model)
        return model  # type: ignore[no-any-return]

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
        for name, spent in _loaded_with.get(model, dict.fromkeys(SETTINGS_OF_THE_WEIGHTS)).items():
            if (given := getattr(config.model_config, name)) not in (None, spent):
                raise ValueError(
                    f"ModelConfig.{name} comes too late for a loaded model: it must be None or, as this one was loaded "
                    f"with, {spent!r}, got {given!r}"
                )
        max_model_len = resolve_max_model_len(
            model.config.get_text_config().to_dict(), tokenizer.model_max_length, config.model_config.max_model_len
        )
        return config.resolve(dtype=dtype, max_model_len=max_model_len, device=str(model.device))


def get_model_and_tokenizer(
    config: ModelConfig, device: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a loaded model and its tokenizer: the factory in front of :class:`ModelLoader`."""
    return ModelLoader(config).load_model_and_tokenizer(device)
