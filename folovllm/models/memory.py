"""How many KV blocks fit into memory. The one place, beside the dtype rule, that asks what the device is."""

from bisect import bisect
from pathlib import Path

import torch
from transformers import PreTrainedModel

from folovllm.config import CacheConfig, ModelImpl
from folovllm.free_memory import GIB, FreeMemory, free_memory
from folovllm.models.kv_cache import KVCache
from folovllm.models.probe import AttentionSpec
from folovllm.models.runner import ModelRunner


def size_cache(
    config: CacheConfig,
    spec: AttentionSpec,
    model: PreTrainedModel,
    max_num_batched_tokens: int,
    model_impl: ModelImpl = "auto",
    enforce_eager: bool = False,
) -> CacheConfig:
    """Return ``config`` with ``num_gpu_blocks`` and ``num_cpu_blocks`` worked out.

    ``num_gpu_blocks_override`` wins; then ``kv_cache_memory_bytes``; then, on CUDA, ``gpu_memory_utilization`` of the
    card less what the model and its largest step take. Left open, all of them: a quarter of what is free, and on the
    host 1 GiB at most; the rest is for the steps, for other engines, and for what else runs here. Swapped blocks take a
    quarter of the host's free memory at most. ValueError if the cache cannot be had.
    (vLLM: ``v1/worker/gpu_worker.py``, ``determine_available_memory``.)
    """
    block_bytes = bytes_per_block(config, spec, model.dtype)
    beside_weights = free_memory(_file_bytes(model))
    num_cpu_blocks = min(int(config.swap_space * GIB), beside_weights.free // 4) // block_bytes
    fix = "allow more memory"
    on_card = model.device.type == "cuda"
    if config.num_gpu_blocks_override is not None:
        source, budget = "num_gpu_blocks_override", config.num_gpu_blocks_override * block_bytes
    elif config.kv_cache_memory_bytes is not None:
        source, budget = "kv_cache_memory_bytes", config.kv_cache_memory_bytes
    elif on_card and config.gpu_memory_utilization is not None:
        source = "gpu_memory_utilization"
        budget = _free_cuda_bytes(config, spec, model, max_num_batched_tokens, model_impl, enforce_eager)
    else:
        free = free_card_memory(model.device) if on_card else beside_weights
        source, fix = f"the free memory ({free}, after the weights)", free.fix
        budget = free.free // 4 if on_card else min(GIB, free.free // 4)
    num_blocks = budget // block_bytes
    if num_blocks < 1:
        raise ValueError(
            f"CacheConfig: {source} leaves {max(0, budget)} bytes for the KV cache, but one block of "
            f"{config.block_size} tokens takes {block_bytes}; {fix} or set num_gpu_blocks_override"
        )
    memory = free_card_memory(model.device) if on_card else free_memory()
    if num_blocks * block_bytes > memory.free:
        raise ValueError(
            f"CacheConfig: {source} asks for {num_blocks * block_bytes} bytes for the KV cache, more than there is "
            f"({memory}); ask for less, or {memory.fix}"
        )
    return config.with_num_blocks(num_blocks, num_cpu_blocks)


def free_card_memory(device: torch.device) -> FreeMemory:
    """Return what a CUDA card has left, what PyTorch keeps of it for reuse included."""
    free, total = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return FreeMemory(free + kept, total, "the memory of the card", "close other programs that use the card")


def _file_bytes(model: PreTrainedModel) -> int:
    """Return how much of a model's weights are pages of a mapped file; all of them where the system does not tell."""
    if model.device.type != "cpu":
        return 0
    weights = {weight.data_ptr(): weight.nbytes for weight in model.parameters()}
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return sum(weights.values())
    mappings = [line.split(maxsplit=5) for line in maps.splitlines()]
    # Those of no file have the inode 0; what lies in /dev is shared memory.
    ranges = [each[0].split("-") for each in mappings if each[4] != "0" and not each[-1].startswith("/dev/")]
    ends = {int(first, 16): int(last, 16) for first, last in ranges}
    starts = [0, *sorted(ends)]
    return sum(size for at, size in weights.items() if at < ends.get(starts[bisect(starts, at) - 1], 0))


def bytes_per_block(config: CacheConfig, spec: AttentionSpec, dtype: torch.dtype) -> int:
    """Return what one KV block takes: the keys and values of ``block_size`` tokens in all layers."""
    return config.block_size * spec.bytes_per_token(dtype)


def _free_cuda_bytes(
    config: CacheConfig,
    spec: AttentionSpec,
    model: PreTrainedModel,
    max_num_batched_tokens: int,
    model_impl: ModelImpl,
    enforce_eager: bool,
) -> int:
    """Measure the largest step, and return what the card's share leaves beside that peak and other programs.

    Recorded steps keep the memory that they need to themselves, and the largest of them is taken to need as much.
    """
    num_blocks = -(-max_num_batched_tokens // config.block_size)
    cache = make_cache(spec, config.with_num_blocks(num_blocks, 0), model)
    runner = ModelRunner(model, cache, model_impl, enforce_eager)
    at_rest = torch.cuda.memory_allocated(model.device)
    torch.cuda.reset_peak_memory_stats(model.device)
    runner.profile(max_num_batched_tokens)
    for_steps = (1 + runner.records_steps) * (torch.cuda.max_memory_allocated(model.device) - at_rest)
    peak = at_rest - cache.data.nbytes + for_steps
    del cache, runner
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(model.device)
    others = total - free - torch.cuda.memory_reserved(model.device)
    assert config.gpu_memory_utilization is not None, "left open, nothing is measured"
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
