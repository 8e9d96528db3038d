"""Threads that share work: everything is done once, whoever comes, and who waits keeps no core busy for nothing."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from folovllm.kernels.compiled import kernel
from folovllm.kernels.team import THREADS, join, meet, shares

ROOT = Path(__file__).parents[1]
NUM_LOOPS = 40


@kernel
def count_up(progress, numbers, times):
    """Add one to every number in each of forty loops; a loop starts where the last one is done."""
    team = join(progress)
    for _ in range(NUM_LOOPS):
        for share in shares(team, len(numbers)):
            below = numbers[max(0, share - 1)]  # would differ where a loop ran ahead of the last
            if abs(below - numbers[share]) <= 1:
                numbers[share] += 1
            for _ in range(times):
                numbers[share] = numbers[share] ^ 1 ^ 1
        meet(team)


@kernel
def fail(progress, numbers):
    """Raise in one share, as a kernel does that finds no memory."""
    team = join(progress)
    for share in shares(team, len(numbers)):
        if share == len(numbers) // 2:
            raise ValueError("no memory")
        for i in range(1_000_000):
            numbers[share] = numbers[share] * 3 + i
    meet(team)


def run(num_threads, size=64, times=50):
    numbers = np.zeros(size, np.int64)
    THREADS.run(num_threads, NUM_LOOPS, count_up, numbers, times)
    return numbers


@pytest.mark.parametrize("num_threads", [1, 2, 3, 4, 16])
def test_every_share_of_every_loop_is_done_once_and_in_order(num_threads):
    for size in (1, 3, 64, 500):
        assert np.array_equal(run(num_threads, size), np.full(size, NUM_LOOPS)), size


def test_several_callers_do_not_disturb_each_other():
    found = {}

    def call(size):
        found[size] = [run(4, size) for _ in range(100)]

    callers = [threading.Thread(target=call, args=(size,)) for size in (7, 64, 65, 200)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(np.array_equal(numbers, np.full(size, NUM_LOOPS)) for size in found for numbers in found[size])
    assert sorted(found) == [7, 64, 65, 200]


def test_a_helper_that_comes_late_finds_nothing_left_to_do():
    """And writes nothing: the arrays may be the caller's again."""
    for _ in range(300):
        numbers = run(4, 2, 0)
        numbers[:] = 0
        time.sleep(0)
        assert np.array_equal(numbers, [0, 0])


def test_threads_that_have_nothing_to_run_use_no_processor():
    run(4)
    time.sleep(0.1)  # whoever was late is asleep now
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.05


def test_what_was_run_is_not_kept_alive():
    class Numbers(np.ndarray):
        pass

    import gc
    import weakref

    numbers = np.zeros(64, np.int64)
    seen = weakref.ref(numbers)
    THREADS.run(4, NUM_LOOPS, count_up, numbers, 0)
    del numbers
    deadline = time.monotonic() + 10
    while seen() is not None and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert seen() is None


def test_an_error_of_the_caller_s_own_call_reaches_it():
    with pytest.raises(TypeError):
        THREADS.run(1, NUM_LOOPS, count_up, np.zeros(3, np.int64), 0, "one too many")


def run_elsewhere(script, *prefix, **settings):
    """Run a script in a process of its own, in which ``run`` is at hand."""
    script = f"from tests.test_team import *\n{textwrap.dedent(script)}"
    command = [*prefix, sys.executable, "-c", script]
    environment = {**os.environ, **settings}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


FINE = "print((run(4) == NUM_LOOPS).all())\n"


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_share_that_fails_is_an_error_and_not_a_wait_for_ever(num_threads):
    script = f"""
    import faulthandler
    faulthandler.dump_traceback_later(60, exit=True)
    errors = 0
    for _ in range(20):
        try:
            THREADS.run({num_threads}, 1, fail, np.zeros(8, np.int64))
        except ValueError:
            errors += 1
    print(errors, (run({num_threads}) == NUM_LOOPS).all())
    """
    assert run_elsewhere(script) == "20 True\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own():
    script = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking while there are threads
    run(4)
    child = os.fork()
    if child == 0:
        os._exit(0 if all((run(4) == NUM_LOOPS).all() for _ in range(100)) else 1)
    fine = (run(4) == NUM_LOOPS).all()
    print(os.waitpid(child, 0)[1], fine)
    """
    assert run_elsewhere(script) == "0 True\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_starts_helpers_leaves_no_lock_behind():
    script = """
    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    run(1)
    stop = threading.Event()
    def keep_running():
        while not stop.is_set():
            run(4, 8, 0)
    other = threading.Thread(target=keep_running)
    other.start()
    codes = []
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os._exit(0 if (run(4) == NUM_LOOPS).all() else 1)
        codes.append(os.waitpid(child, 0)[1])
    stop.set()
    other.join()
    print(codes == [0] * 20)
    """
    assert run_elsewhere(script) == "True\n"


def test_one_openmp_thread_is_no_matter():
    assert run_elsewhere(FINE, OMP_NUM_THREADS="1") == "True\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs the choice of a core")
def test_more_threads_than_cores_end_too():
    script = """
    core = sorted(os.sched_getaffinity(0))[0]
    os.sched_setaffinity(0, {core})
    run(1)
    start = time.perf_counter()
    print(all((run(num_threads) == NUM_LOOPS).all() for num_threads in (2, 4, 8) for _ in range(20)))
    assert time.perf_counter() - start < 60
    """
    assert run_elsewhere(script) == "True\n"


def test_a_process_ends_while_helpers_sleep():
    start = time.perf_counter()
    assert run_elsewhere(FINE) == "True\n"
    assert time.perf_counter() - start < 60
