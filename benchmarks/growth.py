"""How the engine's costs grow with the work: sequences, context, remembered blocks. Nothing may be worse than linear.

    python benchmarks/growth.py

Steps are taken from the engine's own history of real runs on the bundled model; the prefix cache is timed alone.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tables

from folovllm import LLM, SamplingParams
from folovllm.engine.block_manager import BlockManager
from folovllm.sequence import Sequence, SequenceData

BLOCK_SIZE = 16
RNG = random.Random(7)


def prompts(count: int, length: int) -> list[dict[str, list[int]]]:
    """Return prompts of random tokens."""
    return [{"prompt_token_ids": [RNG.randrange(100, 49_000) for _ in range(length)]} for _ in range(count)]


def decoding_steps(llm: LLM, count: int, length: int, params: SamplingParams) -> list[Any]:
    """Return the records of the steps in which ``count`` sequences each got one token."""
    llm.generate(prompts(count, length), params, use_tqdm=False)
    assert llm.llm_engine.history is not None, "the engine records"
    return [step for step in llm.llm_engine.history.steps if step.num_batched_tokens == count][1:]


def sequences_part(loaded: LLM, counts: list[int]) -> dict[str, Any]:
    """Measure a decoding step's milliseconds inside and outside the model, by the number of sequences."""
    costs: dict[str, dict[str, float]] = {}
    length = {"max_tokens": 10, "ignore_eos": True}
    ways = {"greedy": SamplingParams(temperature=0, **length), "top-p": SamplingParams(top_p=0.9, seed=0, **length)}
    for count in counts:
        for way, params in ways.items():
            llm = loaded.with_settings(max_num_seqs=max(counts), record_history=True)
            steps = decoding_steps(llm, count, 8, params)
            for part in ("schedule", "forward", "sample", "postprocess"):
                if way == "greedy" or part == "sample":
                    name = f"{part}, {way}" if part == "sample" else part
                    costs.setdefault(name, {})[str(count)] = statistics.median(getattr(s, f"{part}_ms") for s in steps)
        print(f"{count} sequences", flush=True)
    return {"title": "ms a step, by sequences", "costs": costs}


def context_part(loaded: LLM, lengths: list[int]) -> dict[str, Any]:
    """Measure the milliseconds of one more token, by the tokens before it; and what a token of the prompt took."""
    costs: dict[str, dict[str, float]] = {"decode, a token": {}, "prefill, a token": {}}
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True)
    for length in lengths:
        llm = loaded.with_settings(record_history=True)
        decoding = decoding_steps(llm, 1, length - params.max_tokens, params)
        prefill = [step.forward_ms for step in llm.llm_engine.history.steps if step.num_batched_tokens > 1]
        costs["decode, a token"][str(length)] = statistics.median(step.forward_ms for step in decoding)
        costs["prefill, a token"][str(length)] = sum(prefill) / (length - params.max_tokens)
        print(f"context {length}", flush=True)
    return {"title": "ms, by context", "costs": costs}


def prefix_part(counts: list[int]) -> dict[str, Any]:
    """Measure the prefix cache alone, by the blocks of a prompt: finding them, and one more token after them."""
    costs: dict[str, dict[str, float]] = {
        "find all blocks of a new prompt": {},
        "find them again": {},
        "one more token": {},
    }
    for count in counts:
        token_ids = [RNG.randrange(49_000) for _ in range(count * BLOCK_SIZE + 1)]
        manager = BlockManager(BLOCK_SIZE, count + 2)
        first, second = (Sequence(name, name, SequenceData(list(token_ids)), SamplingParams()) for name in "ab")
        manager.append_slots(first, len(token_ids))
        first.num_computed_tokens = len(token_ids)
        manager.remember_full_blocks(first, 0)
        found: list[int] = []
        milliseconds = once(
            lambda found=found, new=second, manager=manager: found.extend(manager.find_cached_prefix(new))
        )
        assert len(found) == count, "every block is found"
        costs["find all blocks of a new prompt"][str(count)] = milliseconds
        costs["find them again"][str(count)] = often(
            lambda new=second, manager=manager: manager.find_cached_prefix(new)
        )
        costs["one more token"][str(count)] = often(lambda seq=first, manager=manager: one_more_token(manager, seq))
    return {"title": "ms, by blocks", "costs": costs}


def one_more_token(manager: BlockManager, seq: Sequence) -> None:
    """Do for the token after a long prompt what a step does, and take it back."""
    manager.append_slots(seq, 1)
    seq.num_computed_tokens += 1
    manager.remember_full_blocks(seq, seq.num_computed_tokens - 1)
    seq.num_computed_tokens -= 1


def once(run: Callable[[], object]) -> float:
    """Return the milliseconds of one call."""
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def often(run: Callable[[], object]) -> float:
    """Return the median milliseconds of a call."""
    return statistics.median(once(run) for _ in range(15))


def main() -> None:
    """Measure, print tables, write JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "build" / "bench")
    options = parser.parse_args()
    parts = [prefix_part([1, 10, 100, 1_000, 10_000])]
    loaded = LLM(device="cpu")
    parts = [sequences_part(loaded, [1, 4, 16, 64, 256]), context_part(loaded, [128, 512, 2048, 8192]), *parts]
    data = {"kind": "growth", "parts": parts}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "growth.json"
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")
    from figures import plot_growth

    path.with_suffix(".png").write_bytes(plot_growth(data))
    print("\n" + "\n\n".join(tables.growth_table(part) for part in parts))


if __name__ == "__main__":
    main()
