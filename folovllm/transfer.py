"""Bring tensors to a device, or back to the host, all in one transfer.

A transfer costs a card some microseconds however small it is, and one that the host waits for costs all that the card
still has to do. So the numbers of a step travel together: once up, which nobody waits for, and once down.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from itertools import accumulate
from operator import is_not
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def send_together(value: T, device: torch.device) -> T:
    """Return ``value`` with its tensors, all on the host, on a device.

    value: a tensor, or a list, tuple or dataclass with tensors in it, at any depth. Other things in it stay what they
    are.
    """
    if device.type == "cpu":
        return value

    def move(packed: Tensor) -> Tensor:
        # Only out of pinned memory a transfer goes by itself; PyTorch reuses such memory no sooner than it has arrived.
        return packed.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else packed.to(device)

    return _moved(value, move)


def receive_together(value: T) -> T:
    """Return ``value``, as :func:`send_together` takes it, with its tensors, all on one device, on the host."""
    if all(each.device.type == "cpu" for each in _tensors(value)):
        return value
    return _moved(value, Tensor.cpu)


def _moved(value: T, move: Callable[[Tensor], Tensor]) -> T:
    """Return ``value`` with its tensors packed into one of bytes, moved, and unpacked."""
    # The widest numbers come first, so that all lie at multiples of their size.
    tensors = sorted(_tensors(value), key=lambda each: -each.dtype.itemsize)
    if not tensors:
        return value
    parts = [each.detach().contiguous().view(-1).view(torch.uint8) for each in tensors]
    packed = move(torch.cat(parts))
    ends = list(accumulate(len(part) for part in parts))
    pieces = [packed[end - len(part) : end] for part, end in zip(parts, ends, strict=True)]
    moved = {id(each): piece.view(each.dtype).view(each.shape) for each, piece in zip(tensors, pieces, strict=True)}
    return _mapped(value, lambda each: moved[id(each)])  # type: ignore[no-any-return]


def _tensors(value: Any) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    _mapped(value, lambda each: found.setdefault(id(each), each))
    return list(found.values())


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return ``value`` with a function's results in the place of tensors; what has none in it is not copied."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        mapped = [_mapped(each, function) for each in value]
        return type(value)(mapped) if any(map(is_not, mapped, value)) else value
    if is_dataclass(value) and not isinstance(value, type):
        of_fields = {each.name: getattr(value, each.name) for each in fields(value)}
        changed = {name: new for name, old in of_fields.items() if (new := _mapped(old, function)) is not old}
        return replace(value, **changed) if changed else value
    return value
