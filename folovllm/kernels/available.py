"""Whether the kernels can run on this machine, and whether they are compiled for it."""

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from folovllm import kernels
from folovllm.language import N_

if TYPE_CHECKING:
    from torch import Tensor


@cache
def why_no_kernels() -> str | None:
    """Return why numba cannot compile here, in a line; None if it can."""
    try:
        import numba
    except Exception as error:  # a broken installation raises anything
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if numba.config.DISABLE_JIT:
        return N_("NUMBA_DISABLE_JIT is set")
    return None


def has_kernels(tensor: "Tensor") -> bool:
    """Say whether the kernels take a tensor: float32 on a CPU."""
    return tensor.device.type == "cpu" and str(tensor.dtype) == "torch.float32" and why_no_kernels() is None


def kernels_to_compile() -> list[str]:
    """Return the names of the functions whose compiled code is not kept on this machine; needs numba."""
    for module in pkgutil.iter_modules(kernels.__path__):
        import_module(f"{kernels.__name__}.{module.name}")
    from folovllm.kernels.compiled import ENTRIES

    return [entry.name for entry in ENTRIES if not entry.is_filled()]
