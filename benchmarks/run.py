"""Measure this engine beside HuggingFace's ``generate``: tokens a second, ratios, peak memory.

    python benchmarks/run.py --workloads W1 B16 --rounds 3

Every engine lives in a process of its own (so peak memory is its own), and all take turns, round by
round, so that a change in the machine's speed hits them alike. The medians count.
"""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from workloads import Workload, make_workloads


def serve(name: str, connection: Connection) -> None:
    """Be one engine: load it, then run what is asked for until None comes."""
    started = time.perf_counter()
    from peers import PEERS

    peer = PEERS[name]()
    connection.send(time.perf_counter() - started)
    while (workload := connection.recv()) is not None:
        started = time.perf_counter()
        outputs = peer.run(workload)
        connection.send((time.perf_counter() - started, outputs))
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)


class Engine:
    """An engine in its own process."""

    def __init__(self, name: str) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(name, theirs), daemon=True)
        self.process.start()
        self.seconds_to_load: float = self.connection.recv()

    def run(self, workload: Workload) -> tuple[float, list[list[int]]]:
        """Return seconds and outputs."""
        self.connection.send(workload)
        seconds, outputs = self.connection.recv()
        return seconds, outputs

    def stop(self) -> float:
        """End it; return its peak memory in GiB."""
        self.connection.send(None)
        peak: float = self.connection.recv()
        self.process.join()
        return peak


def measure(
    engines: dict[str, Engine], workloads: dict[str, Workload], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Return tokens a second, by workload and engine, one number a round."""
    speeds: dict[str, dict[str, list[float]]] = {w: {e: [] for e in engines} for w in workloads}
    warm_up = Workload("warm-up", [[1, 2, 3]], [4])
    for engine in engines.values():
        engine.run(warm_up)
    for turn in range(rounds):
        for workload_name, workload in workloads.items():
            results = {}
            for name, engine in engines.items():
                seconds, results[name] = engine.run(workload)
                speeds[workload_name][name].append(workload.num_output_tokens / seconds)
                print(
                    f"round {turn + 1} {workload_name} {name}: {speeds[workload_name][name][-1]:.1f} tokens/s",
                    flush=True,
                )
            if workload.num_completions == 1 and "folovllm" in results:
                check_equal(workload_name, results)
    return speeds


def check_equal(workload_name: str, results: dict[str, list[list[int]]]) -> None:
    """Say for how many prompts the greedy tokens of the engines differ (random prompts have near-ties)."""
    for name, outputs in results.items():
        differing = sum(a != b for a, b in zip(outputs, results["folovllm"], strict=True))
        if differing:
            print(f"  {workload_name}: {name} differs from folovllm on {differing} of {len(outputs)} prompts")


def table(speeds: dict[str, dict[str, list[float]]], workloads: dict[str, Workload]) -> Iterable[str]:
    """Return a Markdown table: median (minimum-maximum) tokens/s, and the ratio of medians to hf-static."""
    names = list(next(iter(speeds.values())))
    yield f"| workload | {' | '.join(names)} | folovllm / hf-static |"
    yield "|---" * (len(names) + 2) + "|"
    for workload_name, by_engine in speeds.items():
        medians = {name: statistics.median(each) for name, each in by_engine.items()}
        cells = [f"{medians[n]:.1f} ({min(by_engine[n]):.1f}-{max(by_engine[n]):.1f})" for n in names]
        both = "folovllm" in medians and "hf-static" in medians
        ratio = f"{medians['folovllm'] / medians['hf-static']:.2f}" if both else "-"
        yield f"| {workload_name}: {workloads[workload_name].title} | {' | '.join(cells)} | {ratio} |"


def main() -> None:
    """Parse the command line, measure, print, and write JSON if asked to."""
    available = make_workloads()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=available, default=list(available))
    parser.add_argument("--engines", nargs="+", default=["folovllm", "hf-one-by-one", "hf-static"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write the numbers to this file too")
    options = parser.parse_args()
    workloads = {name: available[name] for name in options.workloads}
    engines = {name: Engine(name) for name in options.engines}
    loads = {name: engine.seconds_to_load for name, engine in engines.items()}
    speeds = measure(engines, workloads, options.rounds)
    peaks = {name: engine.stop() for name, engine in engines.items()}
    print(*table(speeds, workloads), sep="\n")
    print("seconds to load: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in loads.items()))
    print("peak memory, GiB: " + ", ".join(f"{name} {peak:.2f}" for name, peak in peaks.items()))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"tokens_per_second": speeds, "seconds_to_load": loads, "peak_gib": peaks}, file, indent=1)


if __name__ == "__main__":
    main()
