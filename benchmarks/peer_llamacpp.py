"""llama.cpp through llama-cpp-python, whose ``Llama`` works on one text at a time."""

import itertools
import time
from pathlib import Path

from gguf_float32 import convert
from llama_cpp import Llama
from peers import Peer, Result, Setting
from workloads import Workload


class AsShipped(Peer):
    """The GGUF file as it is: 4 bits a weight, so a smaller job than everybody else's."""

    def __init__(self, setting: Setting) -> None:
        self.llama = Llama(
            str(self.file(setting)),
            n_ctx=1024,
            n_threads=setting.threads,
            n_threads_batch=setting.threads,
            verbose=False,
        )

    def file(self, setting: Setting) -> Path:
        """Return the model file to load."""
        if setting.gguf is None:
            raise ValueError("llama.cpp: --gguf must name the bundled model's GGUF file (see benchmarks/README.md)")
        return setting.gguf

    def run(self, workload: Workload) -> Result:  # noqa: D102
        # Forgets the last run's text. Within a run it reuses the prefix that two prompts in a row have in common.
        self.llama.reset()
        token_ids, waits = [], []
        started = time.perf_counter()
        for prompt, length in zip(workload.prompts, workload.max_tokens, strict=True):
            completions = [self._generate(prompt, length, workload) for _ in range(workload.num_completions)]
            tokens, first = completions[0]
            token_ids.append(tokens)
            waits.append(first - started)
        return Result(token_ids, time.perf_counter() - started, waits)

    def _generate(self, prompt: list[int], length: int, workload: Workload) -> tuple[list[int], float]:
        """Return the tokens and when the first one came. ``generate`` goes on after EOS, as it is to do here."""
        drawn = {"temp": 0.8, "top_p": 0.9} if workload.num_completions > 1 else {"temp": 0.0, "top_p": 1.0}
        stream = self.llama.generate(prompt, top_k=0, min_p=0.0, **drawn)
        first = next(stream)
        now = time.perf_counter()
        return [first, *itertools.islice(stream, length - 1)], now


class Float32(AsShipped):
    """The same weights, unpacked to the float32 that the others compute with."""

    def file(self, setting: Setting) -> Path:  # noqa: D102
        return convert(super().file(setting))
