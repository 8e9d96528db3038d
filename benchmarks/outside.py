"""What a decoding step spends outside the model, by what the requests ask of the sampler.

    python benchmarks/outside.py

Everything is read from the engine's own history of real runs on the bundled model: the medians over the steps in which
each sequence got one token. "outside" is the share of schedule, sample and postprocess in a step.
"""

import argparse
import os
import random
import statistics
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tables import markdown

from folovllm import LLM, SamplingParams
from folovllm.engine.history import StepRecord

PARTS = ("schedule", "forward", "sample", "postprocess")
MIXES: dict[str, list[dict[str, Any]]] = {
    "greedy": [{"temperature": 0}],
    "T 1": [{"temperature": 1.0}],
    "T .8, top-p .9": [{"temperature": 0.8, "top_p": 0.9}],
    "T 1.2, top-p .95": [{"temperature": 1.2, "top_p": 0.95}],
    "top-k 50": [{"top_k": 50}],
    "min-p .05": [{"min_p": 0.05}],
    "top-k 50, top-p .9, min-p .05": [{"top_k": 50, "top_p": 0.9, "min_p": 0.05}],
    "penalties": [{"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.5}],
    "logprobs 5": [{"logprobs": 5}],
}
MIXES["all mixed"] = [params for [params] in MIXES.values()]
"""What the sequences ask for, in turn."""


def decoding_steps(llm: LLM, count: int, max_tokens: int, mix: list[dict[str, Any]]) -> list[StepRecord]:
    """Return the steps in which ``count`` sequences each got one token."""
    rng = random.Random(7)
    prompts = [{"prompt_token_ids": [rng.randrange(100, 49_000) for _ in range(32)]} for _ in range(count)]
    length = {"max_tokens": max_tokens, "ignore_eos": True}
    params = [SamplingParams(**mix[i % len(mix)], seed=i, **length) for i in range(count)]
    llm.generate(prompts, params, use_tqdm=False)
    assert llm.llm_engine.history is not None, "the engine records"
    return [step for step in llm.llm_engine.history.steps if step.num_batched_tokens == count][1:]


def make_row(name: str, steps: list[StepRecord]) -> list[str]:
    """Return a row of the table."""
    times = [[getattr(step, f"{part}_ms") for part in PARTS] for step in steps]
    outside = statistics.median(1 - step.forward_ms / sum(each) for step, each in zip(steps, times, strict=True))
    return [name, *(f"{statistics.median(each):.2f}" for each in zip(*times, strict=True)), f"{outside:.1%}"]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sequences", type=int, default=32, help="that decode together (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=32, help="of each (default: %(default)s)")
    parser.add_argument("--mixes", nargs="+", choices=MIXES, default=list(MIXES), metavar="NAME")
    options = parser.parse_args()
    loaded = LLM(device="cpu")
    rows = []
    for name in options.mixes:
        llm = loaded.with_settings(max_num_seqs=options.sequences, record_history=True)
        rows.append(make_row(name, decoding_steps(llm, options.sequences, options.max_tokens, MIXES[name])))
    print(markdown([f"{options.sequences} sequences, ms a step", *PARTS, "outside the model"], rows))


if __name__ == "__main__":
    main()
