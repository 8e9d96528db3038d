"""Measure this engine beside its peers: tokens a second, first token, ready, peak memory, sampler, and the roofline.

    python benchmarks/run.py                                        all of it: make bench
    python benchmarks/run.py --quick                                under 3 minutes: make bench-quick
    python benchmarks/run.py --engines                              list the engines
    python benchmarks/run.py --engines folovllm vllm --python vllm=/path/to/other/venv/bin/python
    python benchmarks/run.py --engines folovllm folovllm-before --before /path/to/a/worktree/of/an/older/commit

Every engine lives in a process of its own, and all take turns, round by round, in an order that rotates, so that a
change in the machine's speed hits them alike. The medians count.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tables
from peers import BEFORE, PEERS, Setting, why_not
from worker import Worker
from workloads import FIRST_TOKEN, WARM_UP, make_workloads

from folovllm.control_groups import count_cores

BUILD = Path(__file__).parents[1] / "build" / "bench"
DEFAULT_ENGINES = ["folovllm", "hf-one-by-one", "hf-static", "hf-continuous"]
QUICK_ENGINES = ["folovllm", "hf-static"]
DEFAULT_WORKLOADS = ["W1", "W2", "W3", "W4", "W5"]
QUICK_FACTOR = 4
STARTED = time.perf_counter()


def say(text: str) -> None:
    """Show how far a long run has come."""
    print(f"[{time.perf_counter() - STARTED:5.0f} s] {text}", flush=True)


def in_turn(names: list[str], turn: int) -> list[str]:
    """Return the names with another one first in every round."""
    start = turn % len(names)
    return names[start:] + names[:start]


class Run:
    """One run: the engines' processes and the figures so far."""

    def __init__(self, options: argparse.Namespace, setting: Setting) -> None:
        self.options, self.setting = options, setting
        self.pythons: dict[str, str] = dict(each.split("=", 1) for each in options.python)
        self.names: list[str] = options.engines
        chosen = {name: workload for name, workload in make_workloads().items() if name in options.workloads}
        self.workloads = {n: w.shortened(QUICK_FACTOR) for n, w in chosen.items()} if options.quick else chosen
        self.ready: dict[str, list[float]] = {name: [] for name in self.names}
        self.speeds: dict[str, dict[str, list[float]]] = {w: {n: [] for n in self.names} for w in self.workloads}
        self.first: dict[str, dict[str, list[float]]] = {w: {n: [] for n in self.names} for w in self.workloads}

    def start(self, name: str) -> Worker:
        """Load an engine."""
        folder = self.options.before if name == BEFORE else None
        python = self.pythons.get(name, sys.executable)
        return Worker("peers:make_peer", name, self.setting, python=python, folder=folder)

    def measure_ready(self, turn: int) -> None:
        """Time each engine from the start of a new process to its first token."""
        for name in in_turn(self.names, turn):
            started = time.perf_counter()
            worker = self.start(name)
            worker.call("run", FIRST_TOKEN)
            self.ready[name].append(time.perf_counter() - started)
            worker.stop()
            say(f"round {turn + 1} ready {name}: {self.ready[name][-1]:.2f} s")

    def measure_workloads(self, engines: dict[str, Worker], turn: int) -> None:
        """Run every workload once on every engine."""
        for workload_name, workload in self.workloads.items():
            outputs = {}
            for name in in_turn(self.names, turn):
                result = engines[name].call("run", workload)
                speed = workload.num_output_tokens / result.seconds
                self.speeds[workload_name][name].append(speed)
                if result.first_token_seconds:
                    self.first[workload_name][name].append(statistics.median(result.first_token_seconds))
                outputs[name] = result.token_ids
                say(f"round {turn + 1} {workload_name} {name}: {speed:.1f} tokens/s")
            if workload.num_completions == 1:
                for line in differences(workload_name, outputs):
                    say(line)

    def measure(self) -> dict[str, Any]:
        """Measure everything; return it as it is written to JSON."""
        settings = describe(self.options, self.setting)
        for turn in range(self.options.rounds):
            self.measure_ready(turn)
        roofline = Worker("roofline:Roofline", self.setting)
        engines = {name: self.start(name) for name in self.names}
        for worker in engines.values():
            worker.call("run", WARM_UP)
        bounds = []
        for turn in range(self.options.rounds):
            bounds.append(roofline.call("measure"))
            say(f"round {turn + 1} roofline: {bounds[-1]['gigabytes_per_second']:.1f} GB/s")
            self.measure_workloads(engines, turn)
        roofline.stop()
        loads = {name: worker.seconds_to_load for name, worker in engines.items()}
        peaks = {name: worker.stop() for name, worker in engines.items()}
        return {
            "kind": kind_of(self.options),
            "settings": settings,
            "workloads": {name: workload.title for name, workload in self.workloads.items()},
            "tokens_per_second": self.speeds,
            "first_token_seconds": self.first,
            "ready_seconds": self.ready,
            "load_seconds": loads,
            "peak_gib": peaks,
            "roofline": bounds,
            "sampler": {} if "W5" not in self.options.workloads else self.measure_sampler(),
        }

    def measure_sampler(self) -> dict[str, dict[str, list[float]]]:
        """Measure W5: the ways to sample take turns call by call, in one process."""
        cases = (
            [("model", "all")] if self.options.quick else [("model", "all"), ("model", "mixed"), ("normal-1", "all")]
        )
        worker = Worker("sampler:SamplerBench", self.setting.threads)
        results = {}
        for kind, case in cases:
            results[f"{kind}, {case}"] = worker.call("measure", kind, case, 2 * self.options.rounds + 1)
            say(f"W5 {kind}, {case}")
        worker.stop()
        return results


def differences(workload_name: str, outputs: dict[str, list[list[int]]]) -> Iterator[str]:
    """Say on how many prompts the engines' greedy tokens differ (random prompts have near-ties)."""
    first, *others = outputs
    for name in others:
        count = sum(a != b for a, b in zip(outputs[name], outputs[first], strict=True))
        if count:
            yield f"  {workload_name}: {name} differs from {first} on {count} of {len(outputs[first])} prompts"


def kind_of(options: argparse.Namespace) -> str:
    """Return what the run's figures are called, and so where ``report.py`` puts them."""
    if options.quick:
        return "speed-quick"
    return "speed" if options.omp_wait_policy == "passive" else f"speed-{options.omp_wait_policy}"


def describe(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Return what the figures depend on. load: how many threads wanted to run before this one began, of others."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    if BEFORE in options.engines:
        versions[BEFORE] = commit_of(options.before)
    return {
        "quick": options.quick,
        "rounds": options.rounds,
        "threads": setting.threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "omp_wait_policy": options.omp_wait_policy,
        "processor": processor(),
        "python": platform.python_version(),
        "versions": versions,
    }


def commit_of(folder: Path) -> str:
    """Return the commit that is checked out in a folder, "unknown" if git does not know."""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def processor() -> str:
    """Return the processor's name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report(data: dict[str, Any]) -> str:
    """Return all tables of a run."""
    parts = [
        tables.settings_line(data),
        tables.speed_table(data),
        tables.goals_table(data),
        tables.first_token_table(data),
        tables.roofline_table(data),
        tables.sampler_table(data["sampler"]) if data["sampler"] else "",
    ]
    return "\n\n".join(part for part in parts if part)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; an engine that cannot run ends the program with one line."""
    known = [*make_workloads(), "W5"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short outputs, one round, folovllm and hf-static only")
    parser.add_argument("--workloads", nargs="+", choices=known, help="default: W1-W5")
    parser.add_argument("--engines", nargs="*", choices=PEERS, metavar="NAME", help="which; without names: list them")
    parser.add_argument("--rounds", type=int, help="default 3; 1 with --quick")
    parser.add_argument("--threads", type=int, default=count_cores(), help="of every engine (default: %(default)s)")
    parser.add_argument("--omp-wait-policy", choices=("passive", "active", "default"), default="passive")
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="an engine's own interpreter"
    )
    parser.add_argument("--before", type=Path, metavar="FOLDER", help=f"a checkout of what {BEFORE} is to run")
    parser.add_argument("--gguf", type=Path, help="the bundled model's GGUF file, for llama.cpp")
    parser.add_argument("--out", type=Path, default=BUILD, help="folder for JSON and plot (default: build/bench)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.workloads = options.workloads or DEFAULT_WORKLOADS
    if options.engines is None:
        options.engines = QUICK_ENGINES if options.quick else DEFAULT_ENGINES
    pythons = dict(each.split("=", 1) for each in options.python)
    missing = [why_not(n, pythons.get(n, sys.executable), options.before) for n in options.engines or PEERS]
    if not options.engines:
        for (name, entry), reason in zip(PEERS.items(), missing, strict=True):
            print(f"{name:15} {entry.title}{f' ({reason})' if reason else ''}")
        parser.exit()
    if any(missing):
        parser.error("; ".join(filter(None, missing)))
    return options


def set_environment(options: argparse.Namespace) -> None:
    """Give the processes to come the same threads, the same way to wait, and no network."""
    os.environ.update({"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ.pop("OMP_WAIT_POLICY", None)
    if options.omp_wait_policy != "default":
        os.environ["OMP_WAIT_POLICY"] = options.omp_wait_policy.upper()


def main() -> None:
    """Measure, print the tables, and write JSON and a plot."""
    options = parse()
    set_environment(options)
    from folovllm.models import bundled

    setting = Setting(bundled.obtain(), options.gguf, options.threads)
    data = Run(options, setting).measure()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{data['kind']}.json"
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    from figures import plot_speed

    path.with_suffix(".png").write_bytes(plot_speed(data))
    print(f"\n{report(data)}\n\n{path}\n{path.with_suffix('.png')}")
    say("done")


if __name__ == "__main__":
    main()
