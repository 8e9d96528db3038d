"""How long a call takes: the measurement of chapter 06."""

import timeit
from collections.abc import Callable
from typing import Any


def seconds(function: Callable[[], Any], at_least: float = 0.01, rounds: int = 5) -> float:
    """Return how long one call takes: the best of several rounds, which other programs disturb least.

    at_least: seconds that a round takes; a quick function is called many times in it.
    """
    timer = timeit.Timer(function)
    calls = 1
    while (elapsed := timer.timeit(calls)) < at_least:
        calls *= 2
    return min(elapsed, *timer.repeat(rounds - 1, calls)) / calls
