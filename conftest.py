"""Tests side by side share the cores: each computes with its part of them, and waits for no other's threads."""

import os

from folovllm.control_groups import count_cores

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # before anything imports torch
    num_threads = max(1, count_cores() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
