"""A pretended CUDA card: what can be shown of the way to a GPU on a machine that has none.

A :class:`CardTensor` says that it lives on ``cuda:0`` and keeps its values on the CPU, out of the caller's reach. All
that PyTorch does with it comes by here: what a card refuses is refused, and what a card makes its caller wait for is
counted. What this cannot show is CUDA itself: its kernels, their rounding, their speed.

>>> with PretendedCard() as card:
...     model.to("cuda")
...     with card.counting() as counts:
...         engine.step()
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from folovllm.models import module_tree

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)


@dataclass
class Counts:
    """What a card was asked for.

    operators: what it computed; views and new memory cost it nothing.  uploads, downloads: transfers, and their bytes.
    waits: how often the host stood still until the card had done all that it had been asked for.
    """

    operators: int = 0
    uploads: int = 0
    bytes_up: int = 0
    downloads: int = 0
    bytes_down: int = 0
    waits: int = 0

    def __sub__(self, before: "Counts") -> "Counts":
        return Counts(*(getattr(self, each.name) - getattr(before, each.name) for each in fields(self)))


class _Allocation:
    """Memory of the card, as long as a tensor uses it."""

    def __init__(self, card: "PretendedCard", num_bytes: int) -> None:
        self._card, self._num_bytes = card, num_bytes
        card.allocated += num_bytes
        card.peak = max(card.peak, card.allocated)

    def __del__(self) -> None:
        self._card.allocated -= self._num_bytes


class CardTensor(Tensor):
    """A tensor on the card.  values: what it holds, a tensor of the CPU."""

    values: Tensor
    card: "PretendedCard"

    @staticmethod
    def __new__(cls, values: Tensor, card: "PretendedCard") -> "CardTensor":
        # To PyTorch's C++ code it is a CPU's, for without CUDA that code can do nothing else.
        self: CardTensor = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
        )
        self.values, self.card = values, card
        self._allocation = card.allocation_of(values)
        return self

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CardTensor({self.values!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        [card, *_] = {each.card for each in tree_leaves((args, kwargs)) if isinstance(each, CardTensor)}
        return card.call_function(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        [card, *_] = {each.card for each in tree_leaves((args, kwargs)) if isinstance(each, CardTensor)}
        return card.run_operator(func, args, kwargs or {})


class PretendedGraph:
    """Stands in for ``torch.cuda.CUDAGraph``: what was asked for while it recorded, for one call to ask again."""

    def __init__(self, card: "PretendedCard") -> None:
        self._card = card
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    def add(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Record a call over the CPU's tensors. A card would not run it now."""
        self._calls.append((func, args, kwargs, result))

    def forget_results(self) -> None:
        """Spoil all that was worked out while it recorded: only a replay gives it values."""
        for _, args, kwargs, result in self._calls:
            given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if _is_tensor(each)}
            for each in filter(_is_tensor, tree_leaves(result)):
                if each.is_floating_point() and each.untyped_storage().data_ptr() not in given:
                    each.fill_(torch.nan)

    @torch.inference_mode()
    def replay(self) -> None:
        """Run what was recorded, over the same memory: to the host it is one operator."""
        self._card.count_operator("graph")
        for func, args, kwargs, result in self._calls:
            for place, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if _is_tensor(place) and place.data_ptr() != new.data_ptr():  # neither a view nor written in place
                    place.copy_(new)


class _Functions(TorchFunctionMode):
    """Hears of what reaches no operator, or reaches it too late: ``torch.tensor``, ``Tensor.to``."""

    def __init__(self, card: "PretendedCard") -> None:
        super().__init__()
        self._card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._card.call_function(func, args, kwargs or {})


class _Operators(TorchDispatchMode):
    """Hears of operators that no tensor of the card is given to: ``torch.zeros(3, device="cuda")``."""

    def __init__(self, card: "PretendedCard") -> None:
        super().__init__()
        self._card = card

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._card.run_operator(func, args, kwargs or {})


class PretendedCard:
    """A card, plugged in for the time of a ``with``.

    memory: its bytes.  capability: as ``torch.cuda.get_device_capability`` returns it; bfloat16 needs (8, 0).
    """

    def __init__(self, memory: int = 2**32, capability: tuple[int, int] = (8, 0)) -> None:
        self.memory, self.capability = memory, capability
        self.allocated = self.peak = 0
        self.counts = Counts()
        self.names: list[str] = []
        self._allocations: WeakValueDictionary[int, _Allocation] = WeakValueDictionary()
        self._in_flight: list[tuple[Tensor, Tensor]] = []
        self._plugs: list[ExitStack] = []
        self._recording: PretendedGraph | None = None

    def __enter__(self) -> "PretendedCard":
        with ExitStack() as stack:
            stack.enter_context(patch.multiple(torch.cuda, **self._torch_cuda()))
            # A parameter becomes another one in place, so that what is tied stays tied.
            swaps = torch.__future__.get_swap_module_params_on_conversion()
            torch.__future__.set_swap_module_params_on_conversion(True)
            stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
            stack.enter_context(patch.object(module_tree, "PLAIN_WEIGHTS", {torch.nn.Parameter, CardTensor}))
            stack.enter_context(_Functions(self))
            stack.enter_context(_Operators(self))
            self._plugs.append(stack.pop_all())
        return self

    def __exit__(self, *error: object) -> None:
        self._plugs.pop().close()

    def _torch_cuda(self) -> dict[str, Any]:
        def reset_peak(device: object = None) -> None:
            self.peak = self.allocated

        return {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_name": lambda device=None: "pretended card",
            "get_device_capability": lambda device=None: self.capability,
            "get_device_properties": lambda device=None: SimpleNamespace(
                name="pretended card", total_memory=self.memory
            ),
            "mem_get_info": lambda device=None: (self.memory - self.allocated, self.memory),
            "memory_allocated": lambda device=None: self.allocated,
            "memory_reserved": lambda device=None: self.allocated,
            "max_memory_allocated": lambda device=None: self.peak,
            "reset_peak_memory_stats": reset_peak,
            "empty_cache": lambda: None,
            "synchronize": lambda device=None: self.wait(),
            "CUDAGraph": lambda: PretendedGraph(self),
            "graph": self._record,
            "graph_pool_handle": lambda: (0, 0),
        }

    @contextmanager
    def _record(self, graph: PretendedGraph, **options: Any) -> Iterator[None]:
        """Stand in for ``torch.cuda.graph``."""
        self._recording = graph
        try:
            yield
        finally:
            self._recording = None
        with torch.inference_mode():
            graph.forget_results()

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count what happens inside; the counts are there after it.  ``self.names`` lists the operators."""
        before, counts = Counts(**vars(self.counts)), Counts()
        self.names.clear()
        yield counts
        vars(counts).update(vars(self.counts - before))

    def allocation_of(self, values: Tensor) -> _Allocation:
        """Return the memory that values lie in; tensors that share theirs share it."""
        storage = values.untyped_storage()
        found = self._allocations.get(storage.data_ptr())
        if found is None:
            if self.allocated + storage.nbytes() > self.memory:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {storage.nbytes()} bytes.")
            found = self._allocations[storage.data_ptr()] = _Allocation(self, storage.nbytes())
        return found

    def wait(self) -> None:
        """Stand still until the card is done, and with it all transfers on their way."""
        self._refuse_while_recording()
        self.counts.waits += 1
        in_flight, self._in_flight = self._in_flight, []
        for source, then in in_flight:
            if not torch.equal(source, then):
                raise RuntimeError("host memory was changed while it was on its way to the card")

    def count_operator(self, name: str) -> None:
        """Count something that the host asks for."""
        self.counts.operators += 1
        self.names.append(name)

    def _refuse_while_recording(self) -> None:
        if self._recording is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    # -- transfers ---------------------------------------------------------------------------------------

    def upload(self, source: Tensor, dtype: torch.dtype | None = None, non_blocking: bool = False) -> CardTensor:
        """Copy to the card. Only out of pinned memory it goes by itself."""
        self._refuse_while_recording()
        self.counts.uploads += 1
        self.counts.bytes_up += source.nbytes
        if non_blocking and is_pinned(source):
            self._in_flight.append((source, source.clone()))
        else:
            self.wait()
        with torch.inference_mode():
            values = source.to(dtype or source.dtype, copy=True)
        return CardTensor(values, self)

    def download(self, source: CardTensor, dtype: torch.dtype | None = None, non_blocking: bool = False) -> Tensor:
        """Copy to the host."""
        self.counts.downloads += 1
        self.counts.bytes_down += source.values.nbytes
        if non_blocking:
            raise NotImplementedError("a copy to the host that nobody waits for")
        self.wait()
        with torch.inference_mode(torch.is_inference_mode_enabled()):
            return source.values.to(dtype or source.dtype, copy=True)

    def move(self, source: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        """Be ``Tensor.to``."""
        device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        if args and isinstance(args[0], CardTensor):
            device = CUDA
        to_card = isinstance(source, CardTensor) if device is None else device.type == "cuda"
        if isinstance(source, CardTensor) and not to_card:
            return self.download(source, dtype, non_blocking)
        if not isinstance(source, CardTensor) and to_card:
            return self.upload(source, dtype, non_blocking)
        with torch._C.DisableTorchFunctionSubclass():
            options = {} if memory_format is None else {"memory_format": memory_format}
            return source.to(dtype or source.dtype, copy=copy, **options)

    # -- functions ---------------------------------------------------------------------------------------

    def call_function(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call one of PyTorch's functions."""
        first = args[0] if args else None
        if func is Tensor.to:
            return self.move(*args, **kwargs)
        if func is Tensor.cuda:
            return self.move(first, CUDA)
        if func is Tensor.cpu:
            return self.move(first, "cpu")
        if func is Tensor.pin_memory:
            return pinned(first)
        if func in (torch.tensor, torch.as_tensor) and _is_card(kwargs.get("device")):
            made = func(*args, **(kwargs | {"device": "cpu"}))
            return self.upload(made)
        if kwargs.get("pin_memory"):
            return pinned(func(*args, **(kwargs | {"pin_memory": False})))
        if isinstance(first, CardTensor):
            if func is Tensor.tolist:
                return self.download(first).tolist()
            if func in (Tensor.numpy, Tensor.__array__):
                raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
            if func is Tensor.data_ptr:
                return first.values.data_ptr()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    # -- operators ---------------------------------------------------------------------------------------

    def run_operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one of PyTorch's operators."""
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        on_card = any(isinstance(each, CardTensor) for each in tensors)
        if not on_card and not _is_card(kwargs.get("device")):
            return func(*args, **kwargs)
        if func is aten._to_copy.default:
            return self._copied(*args, **kwargs)
        if func not in _WHOLE and func._can_decompose():
            return func.decompose(*args, **kwargs)
        if func is aten.copy_.default and not all(isinstance(each, CardTensor) for each in args[:2]):
            return self._copy_across(*args)
        self._refuse_what_a_card_refuses(func, args, tensors)
        return self._run_counted(func, args, kwargs)

    def _run_counted(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._count(func, args)
        return self._run(func, args, kwargs)

    def _copied(self, source: Tensor, **kwargs: Any) -> Tensor:
        device, dtype = kwargs.pop("device", None), kwargs.get("dtype")
        if device is not None and _is_card(device) != isinstance(source, CardTensor):
            non_blocking = kwargs.get("non_blocking", False)
            return (
                self.upload(source, dtype, non_blocking)
                if _is_card(device)
                else self.download(source, dtype, non_blocking)  # type: ignore[arg-type]
            )
        return self._run_counted(aten._to_copy.default, (source,), kwargs)

    def _copy_across(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if isinstance(target, CardTensor):
            # A number needs no transfer: it goes with the call.
            if not source.dim():
                return self._run_counted(aten.copy_.default, (target, source), {})
            moved = self.upload(source, None, non_blocking).values
            with torch.inference_mode():
                target.values.copy_(moved)
        else:
            assert isinstance(source, CardTensor)
            target.copy_(self.download(source, None, non_blocking))
        return target

    def _refuse_what_a_card_refuses(self, func: Any, args: Any, tensors: list[Tensor]) -> None:
        takes_numbers = torch.Tag.pointwise in func.tags or func in _TAKE_NUMBERS
        hosts = [
            each for each in tensors if not isinstance(each, CardTensor) and not (takes_numbers and not each.dim())
        ]
        if func in _TAKE_HOST_INDICES and isinstance(args[0], CardTensor):
            hosts = [each for each in hosts if not any(each is index for index in args[1])]
        if hosts:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! {func}"
            )
        if func in _MATRIX_PRODUCTS and not all(each.is_floating_point() for each in tensors):
            raise RuntimeError(f'"{func}" not implemented on CUDA for {tensors[0].dtype}')

    def _count(self, func: Any, args: Any) -> None:
        if func in _COST_NOTHING or torch.Tag.inplace_view in func.tags or _is_view(func):
            return
        if func is aten._local_scalar_dense.default:
            self.counts.downloads += 1
            self.counts.bytes_down += args[0].nbytes
            self.wait()
            return
        if self._recording is None:
            self.count_operator(str(func))
        if func in _TAKE_HOST_INDICES:
            for index in args[1]:
                if index is None:
                    continue
                if not isinstance(index, CardTensor):
                    self.upload(index)
                elif index.dtype in (torch.bool, torch.uint8) and not _fills(func, args):
                    self.wait()
            if func is aten.index_put_.default and not isinstance(args[2], CardTensor) and not _fills(func, args):
                self.upload(args[2])  # of a number; others are refused
        elif func.overloadpacket in _SIZE_DEPENDS_ON_VALUES:
            self.wait()

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if _is_card(kwargs.get("device")):
            kwargs = kwargs | {"device": torch.device("cpu")}
        call = _ONLY_ON_A_CARD.get(func, func), tree_map(_values, args), tree_map(_values, kwargs)
        with torch.inference_mode():
            result = call[0](*call[1], **call[2])
        if self._recording is not None:
            self._recording.add(*call, result)
        written = _written(func, args, kwargs)
        for each in written:
            if isinstance(each, CardTensor) and each.shape != each.values.shape:
                raise NotImplementedError(f"{func} changes the shape of its input")
        if written:
            return written[0] if len(written) == 1 else tuple(written)
        # A view of a tensor that knows its version shares it, also where new tensors know none.
        with torch.inference_mode(args[0].is_inference() if _is_view(func) else torch.is_inference_mode_enabled()):
            return tree_map(lambda each: CardTensor(each, self) if isinstance(each, Tensor) else each, result)


# -- what is known of operators ------------------------------------------------------------------------------

_WHOLE = {aten.scaled_dot_product_attention.default, aten.rms_norm.default}
"""Composed on a CPU, and one kernel on a card."""

_COST_NOTHING = {
    aten.empty.memory_format, aten.empty_like.default, aten.empty_strided.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten._unsafe_view.default, aten.lift_fresh.default, aten.detach.default,
    aten.alias.default, aten._reshape_alias.default,
}  # fmt: skip
_TAKE_HOST_INDICES = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
"""Those that PyTorch brings to the card by itself: the host waits for it."""

_TAKE_NUMBERS = {
    aten.index_put_.default, aten.index_put.default, aten.fill_.Tensor, aten.masked_fill.Tensor,
    aten.masked_fill_.Tensor, aten.where.self, aten.copy_.default,
}  # fmt: skip
_MATRIX_PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default, aten.addmv.default}
_SIZE_DEPENDS_ON_VALUES = {
    aten.nonzero, aten.masked_select, aten._unique2, aten._unique, aten.unique_dim, aten.unique_consecutive,
    aten.repeat_interleave, aten.bincount, aten.equal, aten.is_nonzero,
}  # fmt: skip


_ONLY_ON_A_CARD = {
    # Of whole numbers, which a CPU does not count.
    aten.histc.default: lambda values, *args, **kwargs: aten.histc(values.double(), *args, **kwargs).to(values.dtype),
}


def _is_card(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _values(each: Any) -> Any:
    return each.values if isinstance(each, CardTensor) else each


def _is_tensor(each: Any) -> bool:
    return isinstance(each, Tensor)


def _is_view(func: Any) -> bool:
    return any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)


def _fills(func: Any, args: Any) -> bool:
    """Say whether a number goes where a mask is set, for which nobody needs to know how many places that are."""
    is_number = func is aten.index_put_.default and not isinstance(args[2], CardTensor)
    return is_number and all(index is None or index.dtype == torch.bool for index in args[1])


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """Return the inputs that an operator writes to and returns."""
    given = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
    return (
        [
            given[each.name]
            for each in func._schema.arguments
            if each.alias_info is not None and each.alias_info.is_write and each.name in given
        ]
        if func._schema.is_mutable
        else []
    )


def pinned(tensor: Tensor) -> Tensor:
    """Return host memory that a card may read by itself."""
    copy = tensor.clone()
    copy._pinned = True  # type: ignore[attr-defined]
    return copy


def is_pinned(tensor: Tensor) -> bool:
    """Say whether a tensor, or the one it is a part of, was pinned."""
    return any(each is not None and hasattr(each, "_pinned") for each in (tensor, tensor._base))
