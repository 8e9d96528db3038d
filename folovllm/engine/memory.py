"""How many KV blocks fit into memory. The one place, beside the dtype rule, that asks what the device is."""

import psutil
import torch
from transformers import PreTrainedModel

from folovllm.config import CacheConfig, ModelImpl
from folovllm.engine.kv_cache import KVCache
from folovllm.engine.model_probe import AttentionSpec
from folovllm.engine.model_runner import ModelRunner

GIB = 1024**3


def size_cache(
    config: CacheConfig,
    spec: AttentionSpec,
    model: PreTrainedModel,
    max_num_batched_tokens: int,
    model_impl: ModelImpl = "auto",
) -> CacheConfig:
    """Return ``config`` with ``num_gpu_blocks`` and ``num_cpu_blocks`` worked out.

    ``num_gpu_blocks_override`` wins; then ``kv_cache_memory_bytes``; then, on CUDA,
    ``gpu_memory_utilization`` of the card less what the model and its largest step take, and
    elsewhere the smaller of 1 GiB and a quarter of the free memory.
    (vLLM: ``v1/worker/gpu_worker.py``, ``determine_available_memory``.)
    """
    block_bytes = bytes_per_block(config, spec, model.dtype)
    num_cpu_blocks = int(config.swap_space * GIB) // block_bytes
    if config.num_gpu_blocks_override is not None:
        return config.with_num_blocks(config.num_gpu_blocks_override, num_cpu_blocks)
    if config.kv_cache_memory_bytes is not None:
        source, budget = "kv_cache_memory_bytes", config.kv_cache_memory_bytes
    elif model.device.type == "cuda":
        source = "gpu_memory_utilization"
        budget = _free_cuda_bytes(config, spec, model, max_num_batched_tokens, model_impl)
    else:
        source, budget = "the free memory", min(GIB, psutil.virtual_memory().available // 4)
    if budget < block_bytes:
        raise ValueError(
            f"CacheConfig: {source} leaves {max(0, budget)} bytes for the KV cache, but one block of "
            f"{config.block_size} tokens takes {block_bytes}; allow more memory or set num_gpu_blocks_override"
        )
    return config.with_num_blocks(budget // block_bytes, num_cpu_blocks)


def bytes_per_block(config: CacheConfig, spec: AttentionSpec, dtype: torch.dtype) -> int:
    """Return what one KV block takes: the keys and values of ``block_size`` tokens in all layers."""
    return config.block_size * spec.bytes_per_token(dtype)


def _free_cuda_bytes(
    config: CacheConfig,
    spec: AttentionSpec,
    model: PreTrainedModel,
    max_num_batched_tokens: int,
    model_impl: ModelImpl,
) -> int:
    """Measure the largest step, and return what the card's share leaves beside that peak and other programs."""
    num_blocks = -(-max_num_batched_tokens // config.block_size)
    cache = make_cache(spec, config.with_num_blocks(num_blocks, 0), model)
    torch.cuda.reset_peak_memory_stats(model.device)
    ModelRunner(model, cache, model_impl).profile(max_num_batched_tokens)
    cache_bytes = cache.data.nbytes
    peak = torch.cuda.max_memory_allocated(model.device) - cache_bytes
    del cache
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(model.device)
    others = total - free - torch.cuda.memory_reserved(model.device)
    return int(total * config.gpu_memory_utilization) - peak - others


def make_cache(spec: AttentionSpec, config: CacheConfig, model: PreTrainedModel) -> KVCache:
    """Return the KV tensors that a sized ``config`` asks for, in the model's dtype and on its device."""
    return KVCache(
        spec.num_layers,
        config.num_gpu_blocks,
        config.block_size,
        spec.num_kv_heads,
        spec.head_dim,
        model.dtype,
        model.device,
    )
