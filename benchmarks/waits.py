"""What a learner waits for before anything happens: imports, the model from the cache, the first token.

    python benchmarks/waits.py

Each wait is a program of its own in a fresh process; all take turns, round by round. Then, where an import's time goes.
The first start on a machine is measured with empty folders, in which no compiled kernel is found.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import tables

from folovllm.models import bundled

_LOAD_HF = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from folovllm.models import bundled
folder = bundled.obtain()
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(folder)
"""
_LOAD_OURS = "from folovllm import LLM, SamplingParams\nllm = LLM(device='cpu')\n"
_FIRST_HF = "model.generate(**tokenizer('Hello, my name', return_tensors='pt'), max_new_tokens=1, do_sample=False)\n"
_FIRST_OURS = "llm.generate('Hello, my name', SamplingParams(temperature=0, max_tokens=1), use_tqdm=False)\n"
_USE_KERNELS = "from folovllm.compile_ahead import use_every_kernel\nuse_every_kernel()\n"
PROGRAMS = {
    "Python alone": "",
    "import folovllm": "import folovllm",
    "import torch": "import torch",
    "import transformers": "import transformers",
    "import numpy, matplotlib": "import numpy, matplotlib.figure",
    "from folovllm import LLM": "from folovllm import LLM",
    "from transformers import AutoModelForCausalLM": "import torch\nfrom transformers import AutoModelForCausalLM",
    "import folovllm.course": "import folovllm.course.public",
    "import folovllm.kernels": "import folovllm.kernels.decoder, folovllm.kernels.sampling",
    "folovllm: every kernel used once, kept": _USE_KERNELS,
    "folovllm: until the model is loaded": _LOAD_OURS,
    "transformers: until the model is loaded": _LOAD_HF,
    "folovllm: until the first token": _LOAD_OURS + _FIRST_OURS,
    "transformers: until the first token": _LOAD_HF + _FIRST_HF,
}
"""Whole programs, so each line contains the waits of those that it begins with."""
FIRST_PROGRAMS = {
    "folovllm: every kernel used once, to be compiled": _USE_KERNELS,
    "folovllm: until the first token, kernels to be compiled": _LOAD_OURS + _FIRST_OURS,
}
"""Those that compile the kernels they need; they are run in half the rounds, since they take so long."""
IMPORT_STATEMENT = "from folovllm import LLM"


def run(program: str, **environment: str) -> float:
    """Return the seconds of a program, from the start of Python to its last statement."""
    started = time.perf_counter()
    # Leaving at once: what Python tidies up in the end makes nobody wait.
    program += "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
    command = [sys.executable, "-c", program]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)
    return time.perf_counter() - started


def run_first(program: str) -> float:
    """Return the seconds of a program that finds no compiled kernel, but the model."""
    model = bundled.obtain()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, model.name).symlink_to(model)
        return run(program, FOLOVLLM_CACHE=folder, TMPDIR=folder, NUMBA_CACHE_DIR="")


def by_package(importtime: str) -> dict[str, float]:
    """Add up what ``python -X importtime`` wrote: each package's own seconds, the costliest first."""
    totals: Counter[str] = Counter()
    for line in importtime.splitlines():
        own, _, module = line.removeprefix("import time:").split("|") if line.count("|") == 2 else ("", "", "")
        if own.strip().isdigit():
            totals[module.strip().partition(".")[0]] += int(own)
    return {name: microseconds / 1e6 for name, microseconds in totals.most_common()}


def main() -> None:
    """Measure, print, write JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "build" / "bench")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for program in PROGRAMS.values():  # once, so that every file is in memory and compiled
        run(program)
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS | FIRST_PROGRAMS}
    for turn in range(options.rounds):
        for name, program in PROGRAMS.items():
            seconds[name].append(run(program))
        for name, program in FIRST_PROGRAMS.items() if turn % 2 == 0 else ():
            seconds[name].append(run_first(program))
        print(f"round {turn + 1} of {options.rounds}", flush=True)
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", IMPORT_STATEMENT], check=True, capture_output=True, text=True
    )
    imports = dict(list(by_package(traced.stderr).items())[:12])
    data = {"kind": "waits", "seconds": seconds, "import_statement": IMPORT_STATEMENT, "imports": imports}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "waits.json"
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    from figures import plot_waits

    path.with_suffix(".png").write_bytes(plot_waits(data))
    print(f"\n{tables.waits_table(data)}\n\n{tables.imports_table(data)}")


if __name__ == "__main__":
    main()
