"""How much memory this process may still take: the one place that asks.

The machine's memory is one limit of several. A container or a batch system sets others by control groups: who exceeds
them is killed without a word. ``ulimit`` sets those of one process: who exceeds them gets an error. psutil knows the
machine only.
"""

import ctypes
import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from folovllm.control_groups import find_groups, read_number, read_numbers
from folovllm.language import N_

GIB = 1024**3
_ADDRESSES_OF_PYTORCH = 600 * 2**20
"""What loading PyTorch alone asks for, though it writes a fraction of it."""
_ADDRESSES = N_("the limit of `ulimit -v`"), N_("type `ulimit -v unlimited` first, where it may be")
_DATA = N_("the limit of `ulimit -d`"), N_("type `ulimit -d unlimited` first, where it may be")
"""Whose limit, and what a user can do."""


@dataclass(frozen=True)
class FreeMemory:
    """What the tightest limit leaves.

    free, total: bytes.  limit: whose it is, "" for the machine.  fix: what a user can do who has too little.
    Both are English, as the engine's errors are; the doctor translates them.
    counts_addresses: the limit counts all that was asked for, whether or not it was ever written or read.
    """

    free: int
    total: int
    limit: str = ""
    fix: str = N_("close other programs and finished notebooks")
    counts_addresses: bool = False

    def __str__(self) -> str:
        return f"{self.free / GIB:.1f} of {self.total / GIB:.1f} GiB free" + (f", {self.limit}" if self.limit else "")


def free_memory(file_bytes: int = 0, root: Path = Path("/")) -> FreeMemory:
    """Return what the tightest limit leaves: the machine's, those of the control groups, or ``ulimit``'s.

    Swap space is not counted. What the system keeps of files is: it can drop that, and read it again.
    file_bytes: of files that are mapped and will be needed all the time (weights), and so are no free memory.
    root: where Linux's ``proc`` lies.
    """
    import psutil  # not above: the doctor tells where it is missing

    machine = psutil.virtual_memory()
    with_files = [FreeMemory(machine.available, machine.total)]
    if sys.platform == "linux":
        with_files += _of_control_groups(root)
    found = [replace(each, free=each.free - file_bytes) for each in with_files]
    if sys.platform == "linux":
        found += _of_this_process(root)  # the addresses of mapped files are already in it
    tightest = min(found, key=lambda each: each.free)
    return replace(tightest, free=max(0, tightest.free))


def _of_control_groups(root: Path) -> Iterator[FreeMemory]:
    for group in find_groups("memory", root):
        # Beyond memory.high a process is not killed, but slowed down until it hardly moves.
        limits = [read_number(group / f"memory.{name}") for name in ("max", "high", "limit_in_bytes")]
        stat = read_numbers(group / "memory.stat")
        # Version 1 says here what the groups above allow, which may lie outside of what a container sees.
        limits.append(stat.get("hierarchical_memory_limit"))
        total = min((limit for limit in limits if limit is not None), default=None)
        if total is not None:
            used = read_number(group / "memory.current") or read_number(group / "memory.usage_in_bytes") or 0
            # In version 1 "total_" are those that count the groups below as well, as the usage does.
            files = sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("active_file", "inactive_file"))
            fix = N_("allow the container more memory, or close other notebooks in it")
            yield FreeMemory(total - max(0, used - files), total, N_("the container's limit"), fix)


def _of_this_process(root: Path) -> Iterator[FreeMemory]:
    import resource  # not on Windows

    try:
        sizes = [int(pages) * resource.getpagesize() for pages in (root / "proc/self/statm").read_text().split()]
    except (OSError, ValueError):
        return
    for (limit, fix), which, column in ((_ADDRESSES, resource.RLIMIT_AS, 0), (_DATA, resource.RLIMIT_DATA, 5)):
        total, _ = resource.getrlimit(which)
        if total != resource.RLIM_INFINITY and column < len(sizes):
            yield FreeMemory(total - sizes[column], total, limit, fix, counts_addresses=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that the system refused memory. A card's own memory is another matter."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error).lower()
    if isinstance(error, ImportError):
        return "failed to map segment" in said
    pytorch_says = ("can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(words in said for words in pytorch_says)


@contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Turn an error that means too little memory into a ``ValueError`` that says how much there was and what to do.

    Libraries that find no room while they are loaded end the process instead of raising, so they are not even tried.
    """
    memory = free_memory()
    try:
        if "torch" not in sys.modules and memory.counts_addresses and memory.free < _ADDRESSES_OF_PYTORCH:
            raise MemoryError
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"there is too little memory: {memory}, which is not enough; {memory.fix}") from error


def return_freed_memory() -> None:
    """Give freed memory back to the system where the C library keeps it: loading a model leaves some 25 MB to glibc."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have no such function
        if trim is not None:
            trim(0)
