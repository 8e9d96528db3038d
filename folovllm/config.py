"""What the engine is told before it starts: the model, the memory, the schedule.

Configs are checked when made and immutable afterwards. A field may stay open (``dtype="auto"``, a
length of None): once the model is known, :meth:`EngineConfig.resolve` returns a copy in which
everything is decided. (vLLM: ``config/``; its top level is ``VllmConfig``, built by ``EngineArgs``.)
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from folovllm.validation import dict_of_names, non_empty_string, one_of, real_number, true_or_false, whole_number
from folovllm.vllm_arguments import engine_arguments, server_flags

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

ModelDType = Literal["auto", "half", "float16", "bfloat16", "float", "float32"]
ModelImpl = Literal["auto", "folovllm", "transformers"]
SamplingOrder = Literal["huggingface", "vllm"]
HfOverrides = dict[str, Any] | Callable[["PreTrainedConfig"], "PreTrainedConfig"]

BUNDLED_MODEL = "SmolLM2-135M-Instruct"
"""Name of the model that comes with the course and needs no hub."""

_CANONICAL_DTYPES = {"half": "float16", "float": "float32"}
_DEFAULT_TOKEN_BUDGET = 2048


class _Config:
    """What all configs share: a readable ``print``."""

    def _set(self, name: str, value: Any) -> None:
        """Store a checked value; the only place where a field of a frozen config is written."""
        object.__setattr__(self, name, value)

    def _checked(self, name: str) -> str:
        return f"{type(self).__name__}.{name}"

    def __str__(self) -> str:
        lines = [f"{type(self).__name__}("]
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            shown = str(value) if is_dataclass(value) else repr(value)
            lines.append(f"    {each.name}={shown.replace(chr(10), chr(10) + '    ')},")
        return "\n".join([*lines, ")"])


@dataclass(frozen=True)
class ModelConfig(_Config):
    """Which model, and how it is loaded.

    model: a hub name, a folder, or a GGUF file (or a folder with one); None: the environment's ``FOLOVLLM_MODEL``,
        else the bundled model.
    tokenizer: the same for the tokenizer; None: the model's. See ``tokenizer_source``.
    dtype: of weights and activations; "auto" as ``models/defaults.py`` says.
    max_model_len: most tokens of prompt and output together, >= 1; None: what the model allows.
    trust_remote_code: run Python code that comes with the model. No model here needs it.
    seed: of the seeds that requests without one of their own get, >= 0.
    max_logprobs: most log-probabilities a request may ask for, >= 0; -1: no limit.
    model_impl: whose forward pass runs: "folovllm" is the engine's own (``models/decoder.py``; on a card
        ``models/torch_decoder.py``), "transformers" HuggingFace's, and with it the hooks of its modules; "auto" takes
        the first where it can run the model: Llama's family, on a CPU in float32, as its class and config make it
        (hooks put on later are not seen).
    enforce_eager: ask a CUDA card for every operator of every step. Otherwise the engine's own forward pass records the
        steps that only decode, and replays them (``models/decode_graphs.py``). Elsewhere nothing is recorded.
    revision: version of the model on the hub (branch, tag or commit); None: the newest. A ValueError for what lies
        on the disk, which has none.
    tokenizer_revision: the same of the tokenizer; None: the model's, if the tokenizer is.
    hf_overrides: changes to the model's config before it loads: a dict of its keys (``{"sliding_window": 512}``, nested
        for ``text_config``), or a function that takes the ``PreTrainedConfig`` and returns one;
        see ``models/hf_overrides.py``.
    """

    model: str = None  # type: ignore[assignment]  # None is replaced when made
    tokenizer: str | None = None
    dtype: ModelDType = "auto"
    max_model_len: int | None = None
    trust_remote_code: bool = False
    seed: int = 0
    max_logprobs: int = 20
    model_impl: ModelImpl = "auto"
    enforce_eager: bool = False
    revision: str | None = None
    tokenizer_revision: str | None = None
    hf_overrides: HfOverrides | None = None

    def __post_init__(self) -> None:
        model = self.model
        if model is None:
            model = os.environ.get("FOLOVLLM_MODEL") or BUNDLED_MODEL
        self._set("model", non_empty_string(self._checked("model"), model))
        if self.tokenizer is not None:
            self._set("tokenizer", non_empty_string(self._checked("tokenizer"), self.tokenizer))
        dtype = one_of(self._checked("dtype"), self.dtype, get_args(ModelDType))
        self._set("dtype", _CANONICAL_DTYPES.get(dtype, dtype))
        if self.max_model_len is not None:
            self._set("max_model_len", whole_number(self._checked("max_model_len"), self.max_model_len, 1))
        self._set("trust_remote_code", true_or_false(self._checked("trust_remote_code"), self.trust_remote_code))
        self._set("seed", whole_number(self._checked("seed"), self.seed, 0, 2**63 - 1))
        self._set("max_logprobs", whole_number(self._checked("max_logprobs"), self.max_logprobs, -1))
        self._set("enforce_eager", true_or_false(self._checked("enforce_eager"), self.enforce_eager))
        for name in ("revision", "tokenizer_revision"):
            if getattr(self, name) is not None:
                self._set(name, non_empty_string(self._checked(name), getattr(self, name)))
        if self.hf_overrides is not None and not callable(self.hf_overrides):
            self._set("hf_overrides", dict_of_names(self._checked("hf_overrides"), self.hf_overrides))
        self._set("model_impl", one_of(self._checked("model_impl"), self.model_impl, get_args(ModelImpl)))

    @property
    def tokenizer_source(self) -> tuple[str, str | None]:
        """Name and revision of the tokenizer: its own, or the model's where they are open."""
        name = self.model if self.tokenizer is None else self.tokenizer
        is_models = self.tokenizer_revision is None and name == self.model
        return name, self.revision if is_models else self.tokenizer_revision

    @property
    def torch_dtype(self) -> "torch.dtype | None":
        """The dtype as PyTorch's object; None while it is "auto"."""
        import torch

        return None if self.dtype == "auto" else getattr(torch, self.dtype)


@dataclass(frozen=True)
class CacheConfig(_Config):
    """How much memory the keys and values get, and in what portions.

    block_size: tokens a KV block, >= 1.
    gpu_memory_utilization: share of a CUDA card that model, activations and KV cache may take, in (0, 1]; None: the KV
        cache takes a quarter of what is free, so that further engines and notebooks find room (vLLM: 0.92).
    swap_space: most GiB of host memory for preempted requests, >= 0; never more than a quarter of what is free (vLLM
        V0; gone from V1).
    enable_prefix_caching: let requests with the same beginning share its blocks.
    num_gpu_blocks_override: exactly so many blocks, >= 1, whatever the memory.
    kv_cache_memory_bytes: memory for the KV cache, >= 1; None: see ``models/memory.py``.
    num_gpu_blocks, num_cpu_blocks: 0 until the engine has sized the memory; not to be set.
    """

    block_size: int = 16
    gpu_memory_utilization: float | None = None
    swap_space: float = 4.0
    enable_prefix_caching: bool = True
    num_gpu_blocks_override: int | None = None
    kv_cache_memory_bytes: int | None = None
    num_gpu_blocks: int = field(default=0, init=False)
    num_cpu_blocks: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._set("block_size", whole_number(self._checked("block_size"), self.block_size, 1))
        if self.gpu_memory_utilization is not None:
            name = self._checked("gpu_memory_utilization")
            utilization = real_number(name, self.gpu_memory_utilization, 0.0, 1.0, above=True)
            self._set("gpu_memory_utilization", utilization)
        self._set("swap_space", real_number(self._checked("swap_space"), self.swap_space, 0.0))
        self._set(
            "enable_prefix_caching", true_or_false(self._checked("enable_prefix_caching"), self.enable_prefix_caching)
        )
        for name in ("num_gpu_blocks_override", "kv_cache_memory_bytes"):
            if getattr(self, name) is not None:
                self._set(name, whole_number(self._checked(name), getattr(self, name), 1))

    def with_num_blocks(self, num_gpu_blocks: int, num_cpu_blocks: int) -> "CacheConfig":
        """Return a copy that says how many blocks there are."""
        sized = replace(self)
        sized._set("num_gpu_blocks", num_gpu_blocks)
        sized._set("num_cpu_blocks", num_cpu_blocks)
        return sized


@dataclass(frozen=True)
class SchedulerConfig(_Config):
    """How many tokens and sequences run in one step.

    max_num_batched_tokens: most tokens a step, >= 1 and >= max_num_seqs; None: 2048, and without
        chunked prefill at least ``max_model_len``.
    max_num_seqs: most sequences that run at once, >= 1.
    enable_chunked_prefill: let a long prompt be computed over several steps.
    num_speculative_tokens: guesses a step by prompt lookup, >= 0; 0 switches it off.
    prompt_lookup_max: longest run of tokens that is looked up, >= 1.
    """

    max_num_batched_tokens: int | None = None
    max_num_seqs: int = 256
    enable_chunked_prefill: bool = True
    num_speculative_tokens: int = 0
    prompt_lookup_max: int = 3

    def __post_init__(self) -> None:
        self._set("max_num_seqs", whole_number(self._checked("max_num_seqs"), self.max_num_seqs, 1))
        self._set(
            "enable_chunked_prefill",
            true_or_false(self._checked("enable_chunked_prefill"), self.enable_chunked_prefill),
        )
        name = self._checked("num_speculative_tokens")
        self._set("num_speculative_tokens", whole_number(name, self.num_speculative_tokens, 0))
        self._set("prompt_lookup_max", whole_number(self._checked("prompt_lookup_max"), self.prompt_lookup_max, 1))
        if self.max_num_batched_tokens is not None:
            name = self._checked("max_num_batched_tokens")
            self._set("max_num_batched_tokens", whole_number(name, self.max_num_batched_tokens, 1))
            if self.max_num_batched_tokens < self.max_num_seqs:
                raise ValueError(
                    f"{name} must be at least max_num_seqs={self.max_num_seqs} (every running sequence needs "
                    f"a token a step), got {self.max_num_batched_tokens}"
                )

    def resolve(self, max_model_len: int) -> "SchedulerConfig":
        """Return a copy with the token budget decided."""
        budget = self.max_num_batched_tokens
        if budget is None:
            longest = 0 if self.enable_chunked_prefill else max_model_len
            budget = max(_DEFAULT_TOKEN_BUDGET, self.max_num_seqs, longest)
        return replace(self, max_num_batched_tokens=budget)


@dataclass(frozen=True)
class EngineConfig(_Config):
    """All of the engine's configuration.

    device: "auto" (cuda, else mps, else cpu), "cpu", "cuda", "cuda:N" (0 to 99) or "mps".
    sampling_order: "huggingface" (temperature, top-k, top-p, min-p; the notes' order too) or "vllm"
        (temperature, min-p, top-k, top-p).
    record_history: keep a record of every step in ``engine.history``.
    """

    model_config: ModelConfig = field(default_factory=ModelConfig)
    cache_config: CacheConfig = field(default_factory=CacheConfig)
    scheduler_config: SchedulerConfig = field(default_factory=SchedulerConfig)
    device: str = "auto"
    sampling_order: SamplingOrder = "huggingface"
    record_history: bool = False

    def __post_init__(self) -> None:
        for name, kind in (
            ("model_config", ModelConfig),
            ("cache_config", CacheConfig),
            ("scheduler_config", SchedulerConfig),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{self._checked(name)} must be a {kind.__name__}, got {getattr(self, name)!r}")
        if not isinstance(self.device, str) or not re.fullmatch(r"auto|cpu|mps|cuda(:[1-9]?[0-9])?", self.device):
            raise ValueError(
                f"{self._checked('device')} must be 'auto', 'cpu', 'mps', 'cuda' or 'cuda:N', got {self.device!r}"
            )
        self._set("device", str.__str__(self.device))
        self._set(
            "sampling_order", one_of(self._checked("sampling_order"), self.sampling_order, get_args(SamplingOrder))
        )
        self._set("record_history", true_or_false(self._checked("record_history"), self.record_history))
        self._check_prompts_fit()

    def _check_prompts_fit(self) -> None:
        budget, longest = self.scheduler_config.max_num_batched_tokens, self.model_config.max_model_len
        if self.scheduler_config.enable_chunked_prefill or budget is None or longest is None:
            return
        if budget < longest:
            raise ValueError(
                f"SchedulerConfig.max_num_batched_tokens must be at least max_model_len={longest} without chunked "
                f"prefill (a prompt must fit into one step), got {budget}"
            )

    def resolve(self, *, dtype: str, max_model_len: int, device: str) -> "EngineConfig":
        """Return a copy in which nothing is open; it resolves to itself.

        It says what was decided, not what was asked for: to try another setting, replace it in the config that
        you made, whose open points are decided anew.
        """
        return replace(
            self,
            model_config=replace(self.model_config, dtype=dtype, max_model_len=max_model_len),  # type: ignore[arg-type]
            scheduler_config=self.scheduler_config.resolve(max_model_len),
            device=device,
        )

    def to_vllm(self) -> dict[str, Any]:
        """Return the keyword arguments that make vLLM 0.33's ``LLM`` this engine: ``vllm.LLM(**config.to_vllm())``.

        Settings that vLLM does not have are named in a UserWarning if they were set: ``swap_space``,
        ``record_history``, a ``device`` other than a GPU, a ``block_size`` that is no multiple of 16, the bundled
        model's 4-bit weights. vLLM's only ``sampling_order`` is "vllm"; :meth:`SamplingParams.to_vllm` warns
        where that makes a difference. With ``num_speculative_tokens`` vLLM refuses ``min_p`` and ``logit_bias``.
        """
        return engine_arguments(**self._for_vllm())

    def to_vllm_server(self) -> list[str]:
        """Return the same as arguments of ``vllm serve``, an OpenAI-compatible server; the model comes first."""
        return server_flags(engine_arguments(**self._for_vllm()))

    def _for_vllm(self) -> dict[str, Any]:
        """Return what :func:`engine_arguments` must be told."""
        tokenizer, tokenizer_revision = self.model_config.tokenizer_source
        parts = (self, self.model_config, self.cache_config, self.scheduler_config)
        settings = {each.name: getattr(part, each.name) for part in parts for each in fields(part)}
        settings |= {"tokenizer": tokenizer, "tokenizer_revision": tokenizer_revision}
        return {"settings": settings, "bundled_model": BUNDLED_MODEL, "default_swap_space": CacheConfig.swap_space}
