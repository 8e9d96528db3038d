"""The tensors behind the block ids: keys and values of all layers, and the host copies of swapped blocks."""

import math
import mmap

import torch
from torch import Tensor

from folovllm.step import BlockCopy


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return zeros whose memory pages the system hands out only when they are first written.

    Zeros matter: attention multiplies the empty slots of a block by probability 0, and 0 * NaN is NaN.
    """
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
        # The views that every layer asks for in every step, made once.
        self._layers = [(keys, values) for keys, values in self.data.flatten(2, 3)]
        self._scratch: dict[str, Tensor] = {}
        self._host: dict[int, Tensor] = {}

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Return one layer's keys and values, each ``[num_blocks * block_size, num_kv_heads, head_dim]``."""
        return self._layers[index]

    def in_place(self, first: int, num_rows: int, width: int, context: int) -> tuple[Tensor, ...]:
        """Return each layer's keys, then its values, where they lie: [num_rows, num_kv_heads, context, head_dim].

        Row i begins at slot ``first + i * width``. All layers at once, since a view costs as much as a small operator.
        """
        slots = self.data.flatten(2, 3).narrow(2, first, num_rows * width)
        rows = slots.view(*slots.shape[:2], num_rows, width, *slots.shape[3:])[:, :, :, :context]
        views: tuple[Tensor, ...] = rows.transpose(3, 4).flatten(0, 1).unbind()
        return views

    def gather(self, part: Tensor, slots: Tensor, purpose: str) -> Tensor:
        """Copy slots of one layer's keys or values side by side: [len(slots), num_kv_heads, head_dim].

        purpose: names the memory that is copied into; it holds until the next call with the same name. The memory is
        kept, because the system hands out new memory page by page, which takes ten times as long as the copy.
        """
        scratch = self._scratch.get(purpose)
        if scratch is None or len(scratch) < len(slots):
            # A quarter more, because contexts grow.
            self._scratch[purpose] = scratch = part.new_empty(len(slots) * 5 // 4, *part.shape[1:])
        return torch.index_select(part, 0, slots, out=scratch[: len(slots)])

    def clear_slots(self, slots: list[int]) -> None:
        """Set slots of all layers to zero: masked or not, attention multiplies what they hold, and 0 * NaN is NaN."""
        if slots:
            self.data.flatten(2, 3)[:, :, torch.tensor(slots, device=self.data.device)] = 0

    def copy_blocks(self, copies: list[BlockCopy]) -> None:
        """Copy blocks within the device (copy on write)."""
        if copies:
            sources, targets = (torch.tensor(ids, device=self.data.device) for ids in zip(*copies, strict=True))
            self.data[:, :, targets] = self.data[:, :, sources]

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
