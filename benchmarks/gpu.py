"""What this project does on your card: ``make test-gpu``. It needs a card (CUDA or Apple's MPS) and half an hour.

It runs the tests that are marked ``gpu``, every notebook with the card as its device, and the workloads W1 to W4 beside
HuggingFace and, where it is installed, vLLM. It ends with one table, and writes ``build/gpu-report.json``: please send
that file in. It holds figures, versions, the card's name and the names of failed tests; no names of yours, no paths.

    python benchmarks/gpu.py                                the tests and the speed
    python benchmarks/gpu.py -- --nbval-lax notebooks/      and the notebooks: these arguments are pytest's
    python benchmarks/gpu.py --rounds 1 --workloads W1      quicker
    python benchmarks/gpu.py --python vllm=/path/to/other/venv/bin/python
"""

import argparse
import importlib.metadata
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import torch
from peers import Setting, why_not
from tables import markdown, spread
from worker import Worker, WorkerError
from workloads import WARM_UP, Workload, make_workloads

from folovllm.free_memory import GIB

ROOT = Path(__file__).parents[1]
ENGINES = ["folovllm", "folovllm-eager", "hf-static", "hf-continuous", "vllm"]
WORKLOADS = ["W1", "W2", "W3", "W4"]
_COLOURS = re.compile(r"#x1B\[[\d;]*m")
"""As JUnit's XML writes what a terminal takes for colours."""

NO_CARD = (
    "make test-gpu: PyTorch sees no card here, neither CUDA nor Apple's MPS, so there is nothing to test; "
    "`make doctor` says what PyTorch does see."
)


def find_card() -> str | None:
    """Return the device that is to be tested; None where there is none."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None


def describe(device: str) -> dict[str, Any]:
    """Return what the figures depend on."""
    packages = ("torch", "transformers", "vllm")
    versions = {name: importlib.metadata.version(name) for name in packages if why_not_package(name) is None}
    facts: dict[str, Any] = {"device": device, "system": f"{platform.system()} {platform.machine()}"}
    facts |= {"python": platform.python_version(), "versions": versions, "dtype": dtype_for(device)}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts |= {"card": card.name, "memory_gib": round(card.total_memory / GIB, 1), "cuda": torch.version.cuda}
        facts["capability"] = ".".join(map(str, torch.cuda.get_device_capability(0)))
    return facts


def why_not_package(name: str) -> str | None:
    """Return why a package cannot be asked for its version; None if it can."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        return str(error)
    return None


def dtype_for(device: str) -> str:
    """Return the dtype that all engines run in: the one that ``dtype="auto"`` gives the bundled model there."""
    from folovllm.models.defaults import resolve_dtype

    capability = torch.cuda.get_device_capability(0) if device == "cuda" else None
    return resolve_dtype("auto", "float32", "llama", device, capability)


def run_tests(title: str, arguments: list[str]) -> dict[str, Any]:
    """Run pytest; return how many tests passed, failed and were skipped, and the failed ones."""
    say(f"{title}: pytest {' '.join(arguments)}")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", f"--junitxml={results}", *arguments]
        started = time.perf_counter()
        code = subprocess.run(command, cwd=ROOT).returncode
        cases = list(ElementTree.parse(results).iter("testcase")) if results.exists() else []
    failures = [
        f"{case.get('classname')} {case.get('name')}: {what_went_wrong(mark)}"
        for case in cases
        for mark in failure_of(case)
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    passed = len(cases) - skipped - sum(bool(failure_of(case)) for case in cases)
    if code not in (0, 1) or not (passed or failures):
        failures.append(f"no test ran, or not all: pytest ended with exit code {code}")
    seconds = round(time.perf_counter() - started)
    return {"passed": passed, "failed": len(failures), "skipped": skipped, "seconds": seconds, "failures": failures}


def failure_of(case: ElementTree.Element) -> list[ElementTree.Element]:
    """Return the mark of a test that failed, in a list; an empty one if it did not."""
    return [mark for kind in ("failure", "error") if (mark := case.find(kind)) is not None][:1]


def what_went_wrong(mark: ElementTree.Element) -> str:
    """Return the first line of a message; of a notebook's cell the last one, which names the error."""
    lines = [line for line in _COLOURS.sub("", mark.get("message") or "").splitlines() if line.strip()]
    return without_paths(lines[-1 if "Traceback:" in lines else 0]) if lines else ""


def without_paths(text: str) -> str:
    """Return a text with the last part of every path only: folders may be called after persons."""
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/][^\s\\/'\",:]+)+[\\/]([^\s\\/'\",:]+)", r"\1", text)


def measure(workloads: dict[str, Workload], setting: Setting, rounds: int, pythons: dict[str, str]) -> dict[str, Any]:
    """Return each engine's tokens a second, {engine: {workload: [one a round]}}, or what was in its way.

    One engine after the other: each would take most of the card's memory.
    """
    found: dict[str, Any] = {}
    for name in ENGINES:
        python = pythons.get(name, sys.executable)
        if (reason := why_not(name, python)) is not None:
            found[name] = reason
            continue
        try:
            worker = Worker("peers:make_peer", name, setting, python=python)
            try:
                worker.call("run", WARM_UP)
                found[name] = {each: measure_one(worker, workload, rounds) for each, workload in workloads.items()}
            finally:
                worker.stop()  # whatever happened: the next one needs the card's memory
        except WorkerError as error:
            found[name] = without_paths(str(error).strip().splitlines()[-1])
        say(f"{name}: {found[name]}")
    return found


def measure_one(worker: Worker, workload: Workload, rounds: int) -> list[float]:
    """Return an engine's tokens a second; what a first run compiles or captures is not counted."""
    worker.call("run", workload.shortened(8))
    return [workload.num_output_tokens / worker.call("run", workload).seconds for _ in range(rounds)]


def table(report: dict[str, Any]) -> str:
    """Return all that was found, as one table."""
    names = list(report["workloads"])
    rows = [
        [title, *[f"{found[key]} {key}" for key in ("passed", "failed", "skipped")], *[""] * (len(names) - 3)]
        for title, found in report["tests"].items()
    ]
    for name, found in report["tokens_per_second"].items():
        cells = [found, *[""] * (len(names) - 1)] if isinstance(found, str) else [spread(found[each]) for each in names]
        rows.append([f"{name}, tokens/s", *cells])
    if isinstance(ours := report["tokens_per_second"].get("folovllm"), dict):
        for name, theirs in report["tokens_per_second"].items():
            if isinstance(theirs, dict) and name != "folovllm":
                ratios = [statistics.median(ours[each]) / statistics.median(theirs[each]) for each in names]
                rows.append([f"folovllm / {name}", *(f"{each:.2f} x" for each in ratios)])
    about = report["about"]
    width = max(map(len, rows)) - 1
    header = [f"{about.get('card', about['device'])}, {about['dtype']}", *names, *[""] * (width - len(names))]
    return markdown(header, [[*row, *[""] * (width + 1 - len(row))] for row in rows])


def say(text: str) -> None:
    """Show how far a long run has come."""
    print(f"\n== {text}", flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each workload (default: %(default)s)")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument(
        "--python", action="append", default=[], metavar="NAME=PATH", help="an engine's own interpreter"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-report.json", help="the file to send in")
    parser.add_argument("notebooks", nargs="*", metavar="-- PYTEST_ARG", help="how pytest is to run the notebooks")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Test, measure, print the table and write the report; return 1 if a test failed, 2 if there is no card."""
    options = parse(arguments)
    device = find_card()
    if device is None:
        print(NO_CARD, file=sys.stderr)
        return 2
    print((__doc__ or "").partition("\n\n    python")[0])
    from folovllm.models import bundled

    setting = Setting(bundled.obtain(), None, torch.get_num_threads(), device, dtype_for(device))
    pythons = dict(each.split("=", 1) for each in options.python)
    tests = {"tests": run_tests("tests", ["-m", "gpu", "-p", "no:xdist", "tests"])}
    if options.notebooks:
        tests["cells of notebooks"] = run_tests("notebooks", options.notebooks)
    workloads = {name: each for name, each in make_workloads().items() if name in options.workloads}
    report = {
        "about": describe(device),
        "tests": tests,
        "workloads": {name: workload.title for name, workload in workloads.items()},
        "tokens_per_second": measure(workloads, setting, options.rounds, pythons),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    failures = [line for found in tests.values() for line in found["failures"]]
    print("", table(report), "", *failures, f"Please send in {options.out}", sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
