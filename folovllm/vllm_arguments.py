"""The same settings in vLLM's words: for its ``LLM`` and ``SamplingParams``, ``vllm serve`` and requests to it.

Names and values are those of vLLM 0.33. Everything is written out, defaults too, since vLLM's may be
others (its ``gpu_memory_utilization`` is 0.92). What vLLM does not have is never dropped in silence: a
ValueError where the result would be something else than was asked for; a UserWarning where it only
comes about differently, in speed, memory, place or detail.
"""

import json
import warnings
from dataclasses import asdict, fields
from typing import Any

from folovllm.config import BUNDLED_MODEL, CacheConfig, EngineConfig
from folovllm.sampling_params import SamplingParams

_SAME_NAMES = {
    "model_config": (
        "dtype",
        "max_model_len",
        "trust_remote_code",
        "seed",
        "max_logprobs",
        "revision",
        "hf_overrides",
    ),
    "cache_config": (
        "gpu_memory_utilization",
        "enable_prefix_caching",
        "num_gpu_blocks_override",
        "kv_cache_memory_bytes",
    ),
    "scheduler_config": ("max_num_batched_tokens", "max_num_seqs", "enable_chunked_prefill"),
}
_MODEL_IMPLS = {"folovllm": "vllm"}
_BUNDLED_MODEL_ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_BLOCK_SIZE_UNIT = 16
"""What block sizes of vLLM's FlashAttention and Triton backends are multiples of."""


def engine_arguments(config: EngineConfig) -> dict[str, Any]:
    """Return what :meth:`EngineConfig.to_vllm` promises; what is None stays out, for vLLM to decide."""
    model, cache, scheduler = config.model_config, config.cache_config, config.scheduler_config
    tokenizer, tokenizer_revision = model.tokenizer_source
    arguments: dict[str, Any] = {"model": _on_the_hub(model.model), "tokenizer": _on_the_hub(tokenizer)}
    for part, names in _SAME_NAMES.items():
        arguments |= {name: getattr(getattr(config, part), name) for name in names}
    arguments["model_impl"] = _MODEL_IMPLS.get(model.model_impl, model.model_impl)
    arguments["tokenizer_revision"] = tokenizer_revision
    if model.revision is not None and tokenizer_revision is None:
        arguments["tokenizer_revision"] = "main"  # else vLLM takes the model's, which is of another repository
    if cache.block_size % _BLOCK_SIZE_UNIT == 0:
        arguments["block_size"] = cache.block_size
    if scheduler.num_speculative_tokens:
        arguments["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": scheduler.num_speculative_tokens,
            "prompt_lookup_max": scheduler.prompt_lookup_max,
            "prompt_lookup_min": 1,
        }
    if config.device.startswith("cuda:"):
        arguments["device_ids"] = [int(config.device.removeprefix("cuda:"))]
    # Else vLLM fills what a request leaves open with the model's own sampling settings.
    arguments["generation_config"] = "vllm"
    _warn(_lost_settings(config))
    return {name: value for name, value in arguments.items() if value is not None}


def _on_the_hub(name: str) -> str:
    return _BUNDLED_MODEL_ON_THE_HUB if name == BUNDLED_MODEL else name


def _lost_settings(config: EngineConfig) -> list[str]:
    """Say what of a config vLLM has no counterpart for, as far as it was set."""
    cache, lost = config.cache_config, []
    if config.model_config.model == BUNDLED_MODEL:
        lost.append(
            f"model={BUNDLED_MODEL!r}: {_BUNDLED_MODEL_ON_THE_HUB} is passed, whose weights are not rounded to "
            "4 bits as the bundled ones are (`python -m folovllm model` prints the folder with those)"
        )
    if config.model_config.model.endswith(".gguf"):
        lost.append(f"model={config.model_config.model!r}: vLLM reads GGUF files only with its plugin vllm-gguf-plugin")
    if cache.swap_space != CacheConfig.swap_space:
        lost.append(f"swap_space={cache.swap_space:g}: vLLM recomputes what it preempts")
    if cache.block_size % _BLOCK_SIZE_UNIT:
        lost.append(f"block_size={cache.block_size}: vLLM takes multiples of {_BLOCK_SIZE_UNIT}")
    if config.device in ("cpu", "mps"):
        lost.append(f"device={config.device!r}: vLLM runs on what its build is for")
    if config.record_history:
        lost.append("record_history=True: vLLM has metrics, but no record of its steps")
    return lost


def server_flags(arguments: dict[str, Any]) -> list[str]:
    """Turn ``LLM``'s arguments into those of ``vllm serve``."""
    flags: list[str] = []
    for name, value in arguments.items():
        flag = "--" + name.replace("_", "-")
        if name == "model":
            flags.insert(0, value)
        elif value is False:
            flags.append(flag.replace("--enable-", "--disable-") if name.startswith("enable_") else f"--no-{flag[2:]}")
        elif value is True:
            flags.append(flag)
        elif callable(value):
            raise ValueError(f"{name} must be a dict to be written as a flag of `vllm serve`, got {value!r}")
        else:
            flags += [flag, _as_flag_value(value)]
    return flags


def _as_flag_value(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, dict) else str(value)


def sampling_arguments(params: SamplingParams) -> dict[str, Any]:
    """Return what :meth:`SamplingParams.to_vllm` promises."""
    if params.num_sequences > params.n:
        raise ValueError(
            f"best_of must be n={params.n} for vLLM, which has none since 0.12, got {params.best_of}; ask for "
            f"n={params.best_of} and logprobs=0, and keep the {params.n} of the largest cumulative_logprob"
        )
    if params.logits_processors is not None:
        raise ValueError(
            "logits_processors must be None for vLLM, whose LLM(logits_processors=[...]) takes subclasses of its "
            f"AdapterLogitsProcessor that return such functions, got {params.logits_processors!r}"
        )
    arguments = asdict(params)
    del arguments["best_of"], arguments["logits_processors"]
    if params.structured_outputs is not None:
        arguments["structured_outputs"] = params.structured_outputs.to_dict()
    known = {field.name for field in fields(SamplingParams)}
    extra = {name: arguments.pop(name) for name in list(arguments) if name not in known}
    if extra:
        arguments["extra_args"] = extra
    if params.temperature > 0 and params.min_p > 0 and (params.top_k > 0 or params.top_p < 1):
        _warn([f"min_p={params.min_p:g} after top_k and top_p: vLLM applies it first, as sampling_order='vllm' does"])
    return arguments


def check_form_for_vllm(params: SamplingParams) -> None:
    """Refuse ``structured_outputs`` for vLLM's own ``SamplingParams``, which takes an object of a class of vLLM's."""
    if params.structured_outputs is not None:
        fields_set = ", ".join(f"{name}={value!r}" for name, value in params.structured_outputs.to_dict().items())
        raise ValueError(
            "structured_outputs must be None for vLLM's class; pass structured_outputs="
            f"vllm.sampling_params.StructuredOutputsParams({fields_set}) beside the other arguments"
        )


def request_body(arguments: dict[str, Any], chat: bool) -> dict[str, Any]:
    """Turn ``SamplingParams``' arguments into fields of a request to ``/v1/completions``, or to the chat endpoint."""
    body = {name: value for name, value in arguments.items() if value is not None}
    if not body.pop("detokenize"):
        _warn(["detokenize=False: a server always answers with text"])
    if "logit_bias" in body:
        body["logit_bias"] = {str(token_id): bias for token_id, bias in body["logit_bias"].items()}
    if "extra_args" in body:
        body["vllm_xargs"] = body.pop("extra_args")
    if chat:
        if "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        if "logprobs" in body:
            body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    elif "max_tokens" not in body:
        raise ValueError(
            "max_tokens must be a number in a completion request, where leaving it out means 16, got None; "
            "chat=True can leave it open"
        )
    return body


def _warn(lost: list[str]) -> None:
    """Warn where the user called ``to_vllm``: three calls up."""
    if lost:
        warnings.warn(f"vLLM has no counterpart to {'; '.join(lost)}", UserWarning, stacklevel=4)
