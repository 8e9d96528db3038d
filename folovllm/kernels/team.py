"""Threads that share the work of a kernel.

The same compiled function runs in every thread of a team. Where its work can be divided, a counter hands out the
shares: who comes first takes the next one, and who comes late finds less to do. Where one kernel needs all that the
one before has written, threads wait for each other (:func:`meet`) - for shares that somebody has begun, never for a
thread that has not come. So the calling thread alone would finish everything, on however busy a machine.

Why not numba's own ``prange``? It wakes its threads for every loop, 150 times a token; its three thread pools either
spin beside PyTorch's (omp), end the process when two threads enter (workqueue) or come with a further library (tbb).
Here threads wake once for a whole forward pass, spin only while they wait for a share, and sleep between passes.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from folovllm.kernels.compiled import kernel, maker

_LINE = 8
"""Counters lie so many numbers apart: a cache line each, lest threads wait for a counter they do not need."""

_RELEASED = 2**62
"""More shares than there are: who waits for that many to be done goes on."""

_SPINS = 2000
"""So often a waiting thread looks, for some microseconds, before it lets others run: most shares take no longer."""


class Team(NamedTuple):
    """What a kernel's thread knows of the others.

    progress: [_LINE * (1 + number of loops)], int64, shared: shares done in all loops, then shares handed out in each.
    place: [2], int64, of this thread: loops begun, and shares that all loops up to here have.
    """

    progress: Any
    place: Any


@intrinsic  # type: ignore[untyped-decorator]
def _add(typing_context: Any, counters: Any, index: Any, amount: Any) -> Any:
    """Add to a counter that other threads add to as well, and return what it was (an atomic fetch-and-add)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", builder.gep(array.data, [arguments[1]]), arguments[2], "seq_cst")

    return types.int64(counters, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _read(typing_context: Any, counters: Any, index: Any) -> Any:
    """Read a counter that other threads add to, and see all that they wrote before they did."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.load_atomic(builder.gep(array.data, [arguments[1]]), "acquire", 8)

    return types.int64(counters, types.int64), generate


_let_others_run = types.ExternalFunction("sched_yield", types.int32())


@maker
def join(progress):
    """Return the team as the calling thread sees it."""
    return Team(progress, np.zeros(2, np.int64))


@kernel
def shares(team, count):
    """Yield numbers from 0 to ``count`` - 1, each to one thread of the team."""
    loop = _LINE * (1 + team.place[0])
    team.place[0] += 1
    team.place[1] += count
    share = _add(team.progress, loop, 1)
    while share < count:
        yield share
        _add(team.progress, 0, 1)
        share = _add(team.progress, loop, 1)


@kernel
def meet(team):
    """Wait until all shares of all loops so far are done."""
    looks = 0
    while _read(team.progress, 0) < team.place[1]:
        looks += 1
        if looks > _SPINS:
            _let_others_run()


class Threads:
    """A calling thread and its helpers, which sleep until there is something to run."""

    def __init__(self) -> None:
        self._start_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_anew)  # the helpers stay behind in the parent

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._num_helpers = 0

    def run(self, num_threads: int, num_loops: int, function: Callable[..., None], *arguments: Any) -> None:
        """Call ``function(progress, *arguments)`` in so many threads at once, and return when all is done.

        num_loops: how many loops its kernels divide into shares.
        """
        with self._lock:
            while self._num_helpers < num_threads - 1:
                threading.Thread(target=self._help, args=(self._work,), daemon=True).start()
                self._num_helpers += 1
        # Fresh counters: a helper that comes late finds the old ones, on which nothing is left to do.
        progress = np.zeros(_LINE * (1 + num_loops), np.int64)
        failures: list[Exception] = []
        work = partial(_run_or_release, failures, function, progress, *arguments)
        try:
            for _ in range(num_threads - 1):
                self._work.put(work)
            work()
        except BaseException:  # an interrupt: what helpers have begun must end before the arrays are used again
            work()
            raise
        if failures:
            raise failures[0]

    @staticmethod
    def _help(queue: "SimpleQueue[Callable[[], None]]") -> None:
        while True:
            work = queue.get()
            work()
            del work  # it would be kept until there is more


def _run_or_release(failures: list[Exception], function: Callable[..., None], progress: Any, *arguments: Any) -> None:
    """Run a kernel. If it fails, which only too little memory makes it do, nobody waits for its share."""
    try:
        function(progress, *arguments)
    except Exception as error:
        failures.append(error)
        progress[0] = _RELEASED


THREADS = Threads()
