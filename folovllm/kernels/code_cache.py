"""Where compiled kernels are kept from one process to the next.

numba has such a cache too. Its own ends the program over a file that is cut off or a disk that is full, looks for
changes in one file alone, knows nothing of settings like bounds checking, and grows for ever. This one is a folder of
files that may be lost or damaged at any time: what cannot be read is compiled again, and what cannot be written is
compiled in every process.
"""

import hashlib
import os
import pickle
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.serialize import dumps

from folovllm.cache_folder import NoHomeError, cache_root

_MOST_FILES = 64
"""A folder keeps so many, those used last: half a MB each, one for every kernel that Python calls, version of the code,
kind of CPU (homes are shared) and type of the arguments. No running process needs one that it has loaded."""

_SETTINGS = ("OPT", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE", "DEBUGINFO_DEFAULT", "FASTMATH")
"""Settings of numba (``NUMBA_...``) that make it compile something else."""

_DIGEST_BYTES = hashlib.sha256().digest_size


def _read_sources() -> bytes:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


_SOURCES = _read_sources()  # now: what is imported, even if a file is edited later


@cache
def _version() -> str:
    """Return a name for all that the same arguments are compiled from and for."""
    settings = [getattr(numba.config, name, None) for name in _SETTINGS]
    cpu = cpu_target.target_context.codegen().magic_tuple()  # with NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, if set
    everything = (_SOURCES, numba.__version__, sys.version, sys.byteorder, settings, cpu)
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:16]


def _folders() -> list[Path]:
    """Return where compiled code may lie, the best place first."""
    user = os.getuid() if hasattr(os, "getuid") else "me"
    places: list[Callable[[], Path]] = [
        lambda: cache_root() / "kernels",
        lambda: Path(tempfile.gettempdir(), f"folovllm-{user}"),
    ]
    if numba.config.CACHE_DIR:
        places.insert(1, lambda: Path(numba.config.CACHE_DIR, "folovllm"))
    found = []
    for place in places:
        with suppress(OSError, NoHomeError):  # a user without a home, a machine without room for temporary files
            found.append(place())
    return found


def _is_trusted(status: os.stat_result) -> bool:
    """Say whether nobody could have written a file who cannot make us run code anyway: what lies in it will be run.

    That is this user, root, and whoever owns this very source, if they let nobody else write.
    """
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid in {os.getuid(), 0, os.stat(__file__).st_uid} and not status.st_mode & 0o022


def _is_safe(folder: Path) -> bool:
    """Say whether a folder, and the link that it may be, is one of those whose files are trusted."""
    return _is_trusted(folder.stat()) and folder.lstat().st_uid == folder.stat().st_uid


def _read(path: Path) -> bytes | None:
    """Return the content of a file that is there, trusted and whole, else None."""
    try:
        if not _is_safe(path.parent):
            return None
        with path.open("rb") as file:
            if not _is_trusted(os.fstat(file.fileno())):
                return None
            digest, content = file.read(_DIGEST_BYTES), file.read()
    except OSError:
        return None
    if hashlib.sha256(content).digest() != digest:
        return None
    with suppress(OSError):
        os.utime(path)  # the files used last are kept
    return content


def _make(folder: Path) -> bool:
    """Make a folder, and say whether files that are written there will be trusted."""
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        return _is_safe(folder) and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _write(path: Path, content: bytes) -> bool:
    """Write a file, all of it or nothing, and say whether it is there; others may read it."""
    if not _make(path.parent):
        return False
    partial = path.with_name(f"partial-{uuid.uuid4().hex}")
    try:
        with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, 0o644)) as file:
            file.write(hashlib.sha256(content).digest() + content)
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        return False
    _forget_the_oldest(path.parent)
    return True


def _forget_the_oldest(folder: Path) -> None:
    with suppress(OSError):  # another process may be at it
        files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[_MOST_FILES:]:
            path.unlink(missing_ok=True)


def can_keep() -> bool:
    """Say whether there is a folder to keep compiled code in."""
    return any(map(_make, _folders()))


class CodeCache(NullCache):  # type: ignore[misc]
    """Keeps the compiled code of one function. numba asks for it before it compiles, and hands over what it has made.

    So here is known when a user has to wait, and it is said on stderr.

    name: the function's.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self._began = 0.0

    def _file_name(self, signature: object) -> str:
        return f"{self.name}-{_version()}-{hashlib.sha256(repr(signature).encode()).hexdigest()[:16]}"

    def is_filled(self) -> bool:
        """Say whether the function has been compiled here, for arguments of some type."""
        pattern = f"{self.name}-{_version()}-*"
        return any(_read(path) is not None for folder in _folders() for path in folder.glob(pattern))

    def load_overload(self, signature: object, target_context: Any) -> Any:
        """Return what was kept for arguments of these types, or None: then numba compiles."""
        # All that finished code needs of numba is its memory management; what compiling needs takes .4 s to import.
        rtsys.initialize(target_context)
        for folder in _folders():
            content = _read(folder / self._file_name(signature))
            if content is not None:
                with suppress(Exception):  # whatever goes wrong with it, it can be compiled again
                    return CompileResult._rebuild(target_context, *pickle.loads(content))
        self._say(f"compiling {self.name} for this machine, once (up to a minute) ...")
        self._began = time.perf_counter()
        return None

    def save_overload(self, signature: object, result: Any) -> None:
        """Keep what was compiled, where that is possible."""
        assert not result.library.has_dynamic_globals, f"{self.name} holds an address of this process"
        seconds = time.perf_counter() - self._began
        content = dumps(result._reduce())
        kept = any(_write(folder / self._file_name(signature), content) for folder in _folders())
        self._say(f"compiled in {seconds:.1f} s" + ("" if kept else ", and nowhere to keep it: see FOLOVLLM_CACHE"))

    @staticmethod
    def _say(text: str) -> None:
        print(f"kernels: {text}", file=sys.stderr, flush=True)
