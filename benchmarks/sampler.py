"""Measure the sampler alone (workload W5) beside HuggingFace's warpers: from 64 rows of logits to 64 tokens.

    python benchmarks/sampler.py --rounds 7

Every row has values of its own. A warper of HuggingFace has one value for the whole batch, so there are two
ways to compare with: ``hf batched`` gives all rows the values of one of them, in a single call (a smaller
job than ours); ``hf by row`` does our job, with our values, a row at a time. The ratio is to the faster of the
two. All three take turns, call by call. Building the warpers is not counted, building our metadata is.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tables import sampler_table
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from folovllm import get_model_and_tokenizer
from folovllm.config import ModelConfig
from folovllm.sampling.metadata import SamplingMetadata, SamplingRow
from folovllm.sampling.sampler import Sampler
from folovllm.sampling_params import SamplingParams

NUM_ROWS, VOCAB_SIZE = 64, 49_152
FILTERS = {
    "temperature": (),
    "+ top-k": ("top_k",),
    "+ top-p": ("top_p",),
    "+ min-p": ("min_p",),
    "+ top-k, top-p": ("top_k", "top_p"),
    "+ top-k, min-p": ("top_k", "min_p"),
    "+ top-p, min-p": ("top_p", "min_p"),
    "all": ("top_k", "top_p", "min_p"),
}
"""Which filters a case turns on, in every row."""

MIXED = "mixed"
"""The case in which every row asks for a subset of its own, or for nothing."""

TEXT = """The council met on Tuesday to discuss the new water plan. "We cannot wait any longer," said Maria Lopez, who
has run the department since 2009. Engineers found that the old pipes lose a third of what they carry, and that repairs
cost more every year than a new line would. In Python, a list is written with square brackets, and a function starts
with def."""


@torch.inference_mode()
def model_logits() -> Tensor:
    """Return the bundled model's logits after each of the first tokens of a text."""
    model, tokenizer = get_model_and_tokenizer(ModelConfig(), device="cpu")
    token_ids = tokenizer(TEXT).input_ids[:NUM_ROWS]
    logits: Tensor = model(torch.tensor([token_ids])).logits[0].float()
    return logits


def normal_logits(spread: float) -> Tensor:
    """Return normal noise."""
    return torch.randn(NUM_ROWS, VOCAB_SIZE, generator=torch.Generator().manual_seed(0)) * spread


LOGITS: dict[str, Callable[[], Tensor]] = {
    "model": model_logits,  # a nucleus has tens of tokens
    "normal-4": lambda: normal_logits(4.0),  # hundreds
    "normal-1": lambda: normal_logits(1.0),  # tens of thousands, as before any training: the worst case
}


def make_rows(case: str) -> list[SamplingRow]:
    """Return what each row asks for."""
    rng = random.Random(2026)
    rows = []
    for _ in range(NUM_ROWS):
        values: dict[str, Any] = {
            "top_k": rng.randint(5, 200),
            "top_p": rng.uniform(0.5, 0.98),
            "min_p": rng.uniform(0.01, 0.2),
        }
        names = rng.choice(list(FILTERS.values())) if case == MIXED else FILTERS[case]
        params = SamplingParams(temperature=rng.uniform(0.5, 1.3), **{name: values[name] for name in names})
        rows.append(SamplingRow(params, [0], [], rng.random()))
    return rows


def warpers_of(params: SamplingParams) -> LogitsProcessorList:
    """Return the chain that ``generate`` builds for these parameters."""
    chain: list[LogitsProcessor] = [TemperatureLogitsWarper(params.temperature)]
    if params.top_k > 0:
        chain.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        chain.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        chain.append(MinPLogitsWarper(params.min_p))
    return LogitsProcessorList(chain)


def draw(chain: LogitsProcessorList, logits: Tensor) -> Tensor:
    """Draw as ``generate`` does."""
    return torch.multinomial(chain(None, logits).softmax(dim=-1), num_samples=1)[:, 0]


def contenders(case: str, logits: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the ways to sample, by name."""
    rows, sampler = make_rows(case), Sampler()
    chains = [warpers_of(row.params) for row in rows]
    longest = max(chains, key=len)
    return {
        "ours": lambda: sampler(logits, SamplingMetadata.build(rows, VOCAB_SIZE, logits.device)).token_ids,
        "hf batched": lambda: draw(longest, logits),
        "hf by row": lambda: torch.cat([draw(chain, logits[i : i + 1]) for i, chain in enumerate(chains)]),
    }


def measure(ways: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, list[float]]:
    """Return milliseconds by name, one number a round; a first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if turn > 0:
                times[name].append(1000 * (time.perf_counter() - started))
    return times


class SamplerBench:
    """W5, to be called from another process."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self._logits = cache(lambda kind: LOGITS[kind]())

    def measure(self, kind: str, case: str, rounds: int) -> dict[str, list[float]]:
        """Return the milliseconds of every way to sample, by name."""
        return measure(contenders(case, self._logits(kind)), rounds)


def main() -> None:
    """Measure every case, print a Markdown table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=[*FILTERS, MIXED], default=[*FILTERS, MIXED])
    parser.add_argument("--logits", nargs="+", choices=LOGITS, default=list(LOGITS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="write the milliseconds to this file too")
    options = parser.parse_args()
    bench, results = SamplerBench(torch.get_num_threads()), {}
    for kind in options.logits:
        for case in options.cases:
            results[f"{kind}, {case}"] = bench.measure(kind, case, options.rounds)
            print(f"{kind}, {case}", file=sys.stderr, flush=True)
    print(f"{NUM_ROWS} rows x {VOCAB_SIZE} logits, median (minimum-maximum)\n\n{sampler_table(results)}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
