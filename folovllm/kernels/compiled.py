"""How the kernels are compiled, and where the result is kept.

The first process on a machine compiles (some seconds); later ones load what it has written.
"""

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from folovllm.cache_folder import cache_root

_FREEDOM = {"reassoc", "nsz", "contract"}
"""What the compiler may do to float32: add in another order, and round once for a product and a sum.

It needs the first to use a CPU's vectors for a sum. It decides while it compiles: the order is the same in every call.
Infinities and NaN it must respect, since one request's must be seen, and must not become another's.
"""


def _sources() -> str:
    """Return a name for this version of the kernels: compiled code must not outlive a line of what it was made from."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return f"kernels-{digest.hexdigest()[:16]}"


def _own_folder(folder: Path) -> bool:
    """Make a folder, and say whether only this user can write there: what lies in it will be run."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return mine and not status.st_mode & stat.S_IWOTH and os.access(folder, os.W_OK | os.X_OK)


def find_folder() -> Path | None:
    """Return where compiled kernels are kept: the cache's folder, else one for temporary files; None if neither can."""
    name = _sources()
    user = os.getuid() if hasattr(os, "getuid") else "me"
    places = [cache_root() / name, Path(tempfile.gettempdir(), f"folovllm-{user}", name)]
    return next((folder for folder in places if _own_folder(folder)), None)


FOLDER = find_folder()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call: it becomes a part of each that does."""
    return numba.njit(fastmath=_FREEDOM, error_model="numpy", nogil=True)(function)


def exact_order(function: Callable[..., Any]) -> Any:
    """Compile a function as :func:`kernel` does, but leave its sums as they are written."""
    return numba.njit(fastmath={"contract"}, error_model="numpy", nogil=True)(function)


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep the result for later processes. It holds no lock of Python's."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(FOLDER or "")
    try:
        return numba.njit(fastmath=_FREEDOM, error_model="numpy", nogil=True, cache=FOLDER is not None)(function)
    finally:
        numba.config.CACHE_DIR = before
