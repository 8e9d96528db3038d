"""The tensors behind the block ids: keys and values of all layers, and the host copies of swapped blocks."""

import math
import mmap

import torch
from torch import Tensor

from folovllm.step import BlockCopy


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros whose memory pages the system hands out only when they are first written."""
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        # With huge pages the first block alone takes 2 MB in every layer's keys and values.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


class KVCache:
    """One tensor ``[num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim]``: keys are 0, values 1.

    With all layers in one tensor a block is copied or swapped by one indexing operation.
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, 2, num_blocks, block_size, num_kv_heads, head_dim)
        self.data = (
            _lazy_zeros(shape, dtype) if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
        )
        self.block_size = block_size
        # The views that every layer asks for in every step, made once.
        self._layers = [(keys, values) for keys, values in self.data.flatten(2, 3)]
        self._host: dict[int, Tensor] = {}

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one layer's keys and values, each ``[num_blocks * block_size, num_kv_heads, head_dim]``."""
        return self._layers[index]

    def copy_blocks(self, copies: list[BlockCopy]) -> None:
        """Copy blocks within the device (copy on write)."""
        for source, target in copies:  # ids as numbers: they need no transfer to the device
            self.data[:, :, target] = self.data[:, :, source]

    def swap_out(self, copies: list[BlockCopy]) -> None:
        """Copy blocks (device, host) to the host."""
        for device_id, host_id in copies:
            self._host[host_id] = self.data[:, :, device_id].to("cpu", copy=True)

    def swap_in(self, copies: list[BlockCopy]) -> None:
        """Copy blocks (host, device) back and drop the host copies."""
        for host_id, device_id in copies:
            self.data[:, :, device_id] = self._host.pop(host_id).to(self.data.device)

    def drop_host_blocks(self, host_ids: list[int] | None = None) -> None:
        """Drop the host copies that nobody will come back for (default: all)."""
        for host_id in list(self._host) if host_ids is None else host_ids:
            self._host.pop(host_id, None)
