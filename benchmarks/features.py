"""What each feature does: steps, tokens through the model and tokens a second with it on and off.

    python benchmarks/features.py

Then where a decoding step's time goes at 1, 16 and 64 sequences. Everything is read from the engine's
own history of real runs on the bundled model.
"""

import os
import random
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from folovllm import LLM, SamplingParams

RNG = random.Random(7)
ROUNDS = 3


def tokens(count: int) -> list[int]:
    """Return random token ids."""
    return [RNG.randrange(100, 49_000) for _ in range(count)]


def prompts(count: int, length: int, prefix: int = 0) -> list[dict[str, list[int]]]:
    """Return prompts of ``length`` tokens of which the first ``prefix`` are common to all."""
    common = tokens(prefix)
    return [{"prompt_token_ids": common + tokens(length - prefix)} for _ in range(count)]


GREEDY = SamplingParams(temperature=0, max_tokens=32, ignore_eos=True)
FAMILY = [SamplingParams(n=4, seed=i, max_tokens=32, ignore_eos=True) for i in range(4)]
LOOP = [{"prompt_token_ids": tokens(8) * 6} for _ in range(4)]
SMALL = {"max_num_batched_tokens": 256, "max_model_len": 256}
CASES: list[tuple[str, Any, Any, dict[str, Any]]] = [
    ("prefix caching on, 16 x (256 common + 16)", prompts(16, 272, 256), GREEDY, {}),
    ("prefix caching off", None, GREEDY, {"enable_prefix_caching": False}),
    ("chunked prefill on, budget 256, 8 x 200", prompts(8, 200), GREEDY, SMALL),
    ("chunked prefill off, budget 256", None, GREEDY, SMALL | {"enable_chunked_prefill": False}),
    ("speculation off, 4 repetitive prompts", LOOP, GREEDY, {}),
    ("speculation of 4", None, GREEDY, {"num_speculative_tokens": 4}),
    ("roomy pool, 4 x n=4 of 64", prompts(4, 64), FAMILY, {}),
    ("starved pool, swap", None, FAMILY, {"num_gpu_blocks_override": 40}),
    ("starved pool, recompute", None, FAMILY, {"num_gpu_blocks_override": 40, "swap_space": 0}),
]


def main() -> None:
    """Measure and print two Markdown tables."""
    loaded = LLM(device="cpu")

    def engine(**settings: Any) -> LLM:
        return loaded.with_settings(**({"max_num_seqs": 64, "record_history": True} | settings))

    print("| run | steps | tokens through the model | tokens/s (median of 3) |\n|---|---|---|---|")
    load: Any = None  # a case without prompts takes those of the one before
    for title, given, params, settings in CASES:
        load = given or load
        speeds = []
        for _ in range(ROUNDS):
            llm = engine(**settings)
            started = time.perf_counter()
            outputs = llm.generate(load, params, use_tqdm=False)
            made = sum(len(completion.token_ids) for output in outputs for completion in output.outputs)
            speeds.append(made / (time.perf_counter() - started))
        steps, run = len(llm.llm_engine.history.steps), llm.llm_engine.model_runner.num_tokens_run
        print(f"| {title} | {steps} | {run} | {statistics.median(speeds):.1f} |", flush=True)

    print(
        "\n| sequences | schedule ms | forward ms | sample ms | postprocess ms | outside the model |\n"
        + "|---" * 6
        + "|"
    )
    for count in (1, 16, 64):
        llm = engine()
        llm.generate(prompts(count, 32), GREEDY, use_tqdm=False)
        decoding = [step for step in llm.llm_engine.history.steps if step.num_batched_tokens == count]
        parts = [
            statistics.median(getattr(step, f"{name}_ms") for step in decoding)
            for name in ("schedule", "forward", "sample", "postprocess")
        ]
        outside = 1 - parts[1] / sum(parts)
        print(f"| {count} | " + " | ".join(f"{part:.2f}" for part in parts) + f" | {outside:.1%} |", flush=True)


if __name__ == "__main__":
    main()
