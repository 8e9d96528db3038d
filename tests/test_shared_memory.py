"""Many kernels share a machine: weights are pages of the model's file, and unused KV blocks take no memory."""

import sys
from pathlib import Path

import psutil
import pytest
import torch
from transformers import PreTrainedModel

from folovllm import get_model_and_tokenizer
from folovllm.config import ModelConfig
from folovllm.models.kv_cache import KVCache

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")


def mapped_ranges(file: Path) -> list[tuple[int, int, str]]:
    """First and last address and permissions of the places where this process has the file in its memory."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, _, _, _, *name = line.split(maxsplit=5)
        if name == [str(file.resolve())]:
            first, last = (int(address, 16) for address in addresses.split("-"))
            ranges.append((first, last, permissions))
    return ranges


def mapped_share(model: PreTrainedModel, file: Path) -> float:
    """The part of the weights' bytes that are the file's own pages."""
    ranges = mapped_ranges(file)
    weights = list(model.parameters())
    inside = sum(w.nbytes for w in weights if any(first <= w.data_ptr() < last for first, last, _ in ranges))
    return inside / sum(w.nbytes for w in weights)


def test_the_bundled_models_weights_are_the_files_pages(bundled_model_path):
    model, _ = get_model_and_tokenizer(ModelConfig(), device="cpu")
    assert mapped_share(model, bundled_model_path / "model.safetensors") > 0.95


def test_converted_weights_are_not(bundled_model_path):
    model, _ = get_model_and_tokenizer(ModelConfig(dtype="bfloat16"), device="cpu")
    assert mapped_share(model, bundled_model_path / "model.safetensors") == 0


def test_a_write_to_a_weight_does_not_reach_the_file(bundled_model_path):
    file = bundled_model_path / "model.safetensors"
    model, _ = get_model_and_tokenizer(ModelConfig(), device="cpu")
    assert all(permissions[3] == "p" for _, _, permissions in mapped_ranges(file))  # p: private, copied on write
    with torch.no_grad():
        model.model.norm.weight.fill_(7)
    again, _ = get_model_and_tokenizer(ModelConfig(), device="cpu")
    assert not (again.model.norm.weight == 7).any()


def test_a_pool_takes_memory_only_for_the_blocks_that_are_written():
    process = psutil.Process()
    before = process.memory_info().rss
    num_blocks = 1000
    pool = KVCache(30, num_blocks, 16, 3, 64, torch.float32, torch.device("cpu"))
    assert pool.data.nbytes > 500 * 2**20
    pool.data[:, :, 0] = 1
    taken = process.memory_info().rss - before
    assert taken < 10 * pool.data.nbytes / num_blocks
    assert not pool.data[:, :, 1:3].any()
