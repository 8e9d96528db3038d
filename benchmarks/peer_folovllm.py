"""This project's engine."""

import time
from typing import Any

import torch
from peers import Peer, Result, Setting
from workloads import Workload

from folovllm import LLM, SamplingParams


class FoloVLLM(Peer):
    """``LLM`` with its defaults. The prefix cache is emptied before every run, so that no run profits from another."""

    def __init__(self, setting: Setting, **settings: Any) -> None:
        torch.set_num_threads(setting.threads)
        self.llm = LLM(device=setting.device, dtype=setting.dtype, **settings)

    def run(self, workload: Workload) -> Result:  # noqa: D102
        self.llm.llm_engine.reset_prefix_cache()
        prompts = [{"prompt_token_ids": prompt} for prompt in workload.prompts]
        params = [self._params(workload, count) for count in workload.max_tokens]
        started = time.perf_counter()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        waits = [output.metrics.first_token_time - started for output in outputs]
        return Result([output.outputs[0].token_ids for output in outputs], seconds, waits)

    @staticmethod
    def _params(workload: Workload, max_tokens: int) -> SamplingParams:
        # min_tokens masks EOS until the end, as HuggingFace's min_new_tokens does.
        length = {"max_tokens": max_tokens, "min_tokens": max_tokens}
        if workload.num_completions == 1:
            return SamplingParams(temperature=0, **length)
        return SamplingParams(n=workload.num_completions, temperature=0.8, top_p=0.9, seed=0, **length)


class Eager(FoloVLLM):
    """The same without recorded steps, which there are on CUDA only."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, enforce_eager=True)
