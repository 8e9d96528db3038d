"""The same settings in vLLM's words: for its ``LLM`` and ``SamplingParams``, ``vllm serve`` and requests to it.

Names and values are those of vLLM 0.33. Everything is written out, defaults too, since vLLM's may be
others (its ``gpu_memory_utilization`` is 0.92). What vLLM does not have is never dropped in silence: a
ValueError where the result would be something else than was asked for; a UserWarning where it only
comes about differently, in speed, memory, place or detail.

Settings come as plain values: this module knows no config, so that configs can say themselves what they are in vLLM.
"""

import json
import warnings
from typing import Any

from folovllm.structured_outputs_params import StructuredOutputsParams

_SAME_NAMES = (
    "dtype",
    "max_model_len",
    "trust_remote_code",
    "seed",
    "max_logprobs",
    "revision",
    "hf_overrides",
    "gpu_memory_utilization",
    "enable_prefix_caching",
    "num_gpu_blocks_override",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "enable_chunked_prefill",
    "enforce_eager",
)
_MODEL_IMPLS = {"folovllm": "vllm"}
_BUNDLED_MODEL_ON_THE_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_BLOCK_SIZE_UNIT = 16
"""What block sizes of vLLM's FlashAttention and Triton backends are multiples of."""


def engine_arguments(settings: dict[str, Any], *, bundled_model: str, default_swap_space: float) -> dict[str, Any]:
    """Return what :meth:`EngineConfig.to_vllm` promises; what is None stays out, for vLLM to decide.

    settings: the fields of all configs by their names, with the tokenizer decided.
    bundled_model: the name that a hub does not know.
    """
    arguments: dict[str, Any] = {name: settings[name] for name in ("model", "tokenizer", *_SAME_NAMES)}
    for name in ("model", "tokenizer"):
        if arguments[name] == bundled_model:
            arguments[name] = _BUNDLED_MODEL_ON_THE_HUB
    arguments["model_impl"] = _MODEL_IMPLS.get(settings["model_impl"], settings["model_impl"])
    arguments["tokenizer_revision"] = settings["tokenizer_revision"]
    if settings["revision"] is not None and settings["tokenizer_revision"] is None:
        arguments["tokenizer_revision"] = "main"  # else vLLM takes the model's, which is of another repository
    if settings["block_size"] % _BLOCK_SIZE_UNIT == 0:
        arguments["block_size"] = settings["block_size"]
    if settings["num_speculative_tokens"]:
        arguments["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": settings["num_speculative_tokens"],
            "prompt_lookup_max": settings["prompt_lookup_max"],
            "prompt_lookup_min": 1,
        }
    if settings["device"].startswith("cuda:"):
        arguments["device_ids"] = [int(settings["device"].removeprefix("cuda:"))]
    # Else vLLM fills what a request leaves open with the model's own sampling settings.
    arguments["generation_config"] = "vllm"
    _warn(_lost_settings(settings, bundled_model, default_swap_space))
    return {name: value for name, value in arguments.items() if value is not None}


def _lost_settings(settings: dict[str, Any], bundled_model: str, default_swap_space: float) -> list[str]:
    """Say what of a config vLLM has no counterpart for, as far as it was set."""
    model, swap_space, block_size, device = (settings[n] for n in ("model", "swap_space", "block_size", "device"))
    lost = []
    if model == bundled_model:
        lost.append(
            f"model={model!r}: {_BUNDLED_MODEL_ON_THE_HUB} is passed, whose weights are not rounded to "
            "4 bits as the bundled ones are (`python -m folovllm model` prints the folder with those)"
        )
    if model.endswith(".gguf"):
        lost.append(f"model={model!r}: vLLM reads GGUF files only with its plugin vllm-gguf-plugin")
    if swap_space != default_swap_space:
        lost.append(f"swap_space={swap_space:g}: vLLM recomputes what it preempts")
    if block_size % _BLOCK_SIZE_UNIT:
        lost.append(f"block_size={block_size}: vLLM takes multiples of {_BLOCK_SIZE_UNIT}")
    if device in ("cpu", "mps"):
        lost.append(f"device={device!r}: vLLM runs on what its build is for")
    if settings["record_history"]:
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


def check_choice_for_vllm(n: int, best_of: int | None, logits_processors: list[Any] | None) -> None:
    """Refuse what chooses tokens and texts in ways that vLLM does not have."""
    if best_of is not None and best_of > n:
        raise ValueError(
            f"best_of must be n={n} for vLLM, which has none since 0.12, got {best_of}; ask for "
            f"n={best_of} and logprobs=0, and keep the {n} of the largest cumulative_logprob"
        )
    if logits_processors is not None:
        raise ValueError(
            "logits_processors must be None for vLLM, whose LLM(logits_processors=[...]) takes subclasses of its "
            f"AdapterLogitsProcessor that return such functions, got {logits_processors!r}"
        )


def sampling_arguments(params: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return what :meth:`SamplingParams.to_vllm` promises, of its fields and of those that a subclass adds."""
    arguments = {name: value for name, value in params.items() if name not in ("best_of", "logits_processors")}
    lost = []
    if extra:
        arguments["extra_args"] = extra
        lost.append(f"{' and '.join(extra)}: passed in extra_args, where only a logits processor of yours reads it")
    min_p = params["min_p"]
    if params["temperature"] > 0 and min_p > 0 and (params["top_k"] > 0 or params["top_p"] < 1):
        lost.append(f"min_p={min_p:g} after top_k and top_p: vLLM applies it first, as sampling_order='vllm' does")
    _warn(lost)
    return arguments


def check_form_for_vllm(form: StructuredOutputsParams | None) -> None:
    """Refuse ``structured_outputs`` for vLLM's own ``SamplingParams``, which takes an object of a class of vLLM's."""
    if form is not None:
        fields_set = ", ".join(f"{name}={value!r}" for name, value in form.to_dict().items())
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
