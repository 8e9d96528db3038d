"""How the kernels are compiled: by numba, when they are first called with arguments of some types.

The first process on a machine compiles (up to a minute); later ones load what it has kept.
"""

from collections.abc import Callable
from typing import Any

import numba

from folovllm.kernels.code_cache import CodeCache

_FREEDOM = {"reassoc", "nsz", "contract"}
"""What the compiler may do to float32: add in another order, and round once for a product and a sum.

It needs the first to use a CPU's vectors for a sum. It decides while it compiles: the order is the same in every call.
Infinities and NaN it must respect, since one request's must be seen, and must not become another's.
"""

ENTRIES: list[CodeCache] = []
"""The code of every function that Python calls, of the modules that are imported."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call: it becomes a part of each that does.

    It makes no arrays. So nobody needs to count who holds one, or a row of it, which takes longer than a short loop,
    most of all where two threads count the same one.
    """
    return numba.njit(fastmath=_FREEDOM, error_model="numpy", nogil=True, _nrt=False)(function)


def exact_order(function: Callable[..., Any]) -> Any:
    """Compile a function as :func:`kernel` does, but leave its sums as they are written."""
    return numba.njit(fastmath={"contract"}, error_model="numpy", nogil=True, _nrt=False)(function)


def maker(function: Callable[..., Any]) -> Any:
    """Compile a function that returns arrays: new ones, which the entry that asks for them frees, or what nobody owns.

    A kernel must not ask for new ones: it frees nothing.
    """
    return numba.njit(fastmath=_FREEDOM, error_model="numpy", nogil=True, _nrt=True)(function)


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep the result for later processes. It holds no lock of Python's."""
    compiled = maker(function)
    compiled._cache = CodeCache(function)  # where numba would put its own
    ENTRIES.append(compiled._cache)
    return compiled
