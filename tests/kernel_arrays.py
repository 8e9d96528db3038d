"""Arrays to call the kernels with, and how they are compared."""

import numpy as np

from folovllm.kernels.team import Team

EPS = float(np.finfo(np.float32).eps)


def one_thread() -> Team:
    """Return a team of the calling thread alone, for one loop."""
    return Team(np.zeros(16, np.int64), np.zeros(2, np.int64))


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Say whether two float32 arrays hold the same bits: 0 is not -0, and a NaN is itself."""
    return a.shape == b.shape and np.array_equal(a.view(np.uint32), b.view(np.uint32))


def assert_within(actual: np.ndarray, expected: np.ndarray, bound: np.ndarray | float) -> None:
    """Check that no element of ``actual`` is further than ``bound`` from ``expected``, both float64 arrays alike."""
    distance = np.abs(actual.astype(np.float64) - expected)
    worst = np.unravel_index(np.argmax(distance - bound), distance.shape)
    limit = np.broadcast_to(bound, distance.shape)[worst]
    assert distance[worst] <= limit, f"at {worst}: {actual[worst]!r}, and {expected[worst]!r} by definition"
