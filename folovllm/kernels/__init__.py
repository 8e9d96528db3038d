"""The arithmetic on a CPU, in float32: loops that numba compiles. They know arrays, and nothing of an engine."""
