"""HuggingFace transformers, three ways: ``generate`` prompt by prompt, as one padded batch, and continuous batching."""

import time
from typing import Any

import torch
from peers import Peer, Result, Setting
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers import logging as transformers_logging
from transformers.generation.continuous_batching.utils import WorkloadHints
from workloads import Workload

GREEDY: dict[str, Any] = {"do_sample": False}
DRAWN: dict[str, Any] = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0}


class FirstTokenClock(StoppingCriteria):
    """Stops nothing; notes when ``generate`` has its first tokens, after which it asks whether to stop."""

    def __init__(self) -> None:
        self.time: float | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:  # noqa: D102
        if self.time is None:
            self.time = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


class HuggingFace(Peer):
    """The model as ``from_pretrained`` gives it."""

    def __init__(self, setting: Setting) -> None:
        torch.set_num_threads(setting.threads)
        transformers_logging.disable_progress_bar()
        dtype = getattr(torch, setting.dtype)
        self.model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=dtype).to(setting.device).eval()
        self.pad_token_id = AutoTokenizer.from_pretrained(setting.model).pad_token_id

    def generate(
        self, prompts: list[list[int]], max_tokens: int, drawn: bool, num_completions: int = 1
    ) -> tuple[list[list[int]], float]:
        """Generate for prompts padded on the left.

        Returns the first completion of each, and the clock's time at the first tokens.
        """
        width = max(map(len, prompts))
        device = self.model.device
        ids = torch.tensor([[self.pad_token_id] * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        clock = FirstTokenClock()
        output = self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            num_return_sequences=num_completions,
            stopping_criteria=StoppingCriteriaList([clock]),
            **(DRAWN if drawn else GREEDY),
        )
        assert clock.time is not None, "generate asks its criteria after every token"
        return output[::num_completions, width:].tolist(), clock.time


class StaticBatch(HuggingFace):
    """All prompts at once. The batch runs until its longest text is done; the surplus of the others is cut off."""

    def run(self, workload: Workload) -> Result:  # noqa: D102
        count = workload.num_completions
        started = time.perf_counter()
        outputs, first = self.generate(workload.prompts, max(workload.max_tokens), count > 1, count)
        seconds = time.perf_counter() - started
        token_ids = [tokens[:length] for tokens, length in zip(outputs, workload.max_tokens, strict=True)]
        return Result(token_ids, seconds, [first - started] * len(token_ids))


class OneByOne(HuggingFace):
    """One prompt after the other, and one completion after the other."""

    def run(self, workload: Workload) -> Result:  # noqa: D102
        drawn = workload.num_completions > 1
        token_ids, waits = [], []
        started = time.perf_counter()
        for prompt, length in zip(workload.prompts, workload.max_tokens, strict=True):
            completions = [self.generate([prompt], length, drawn) for _ in range(workload.num_completions)]
            [tokens], first = completions[0]
            token_ids.append(tokens)
            waits.append(first - started)
        return Result(token_ids, time.perf_counter() - started, waits)


class ContinuousBatch(HuggingFace):
    """What ``generate_batch`` runs on. It has one length for all prompts, its manager one for each: so the manager."""

    def run(self, workload: Workload) -> Result:  # noqa: D102
        # No token has the id -1, so nothing ends a text early. A manager of its own: no prefix from an earlier run.
        config = GenerationConfig(
            eos_token_id=-1,
            pad_token_id=self.pad_token_id,
            num_return_sequences=workload.num_completions,
            **(DRAWN if workload.num_completions > 1 else GREEDY),
        )
        requests = list(zip(workload.prompts, workload.max_tokens, strict=True))
        hints = WorkloadHints(
            max_prompt_length=max(map(len, workload.prompts)),
            max_generated_length=max(workload.max_tokens),
            num_requests=len(requests) * workload.num_completions,
        )
        with self.model.continuous_batching_context_manager(config, workload_hints=hints) as manager:
            started = time.perf_counter()
            # Sorted, as ``generate_batch`` does, so that equal prefixes meet.
            for number in sorted(range(len(requests)), key=lambda number: requests[number][0], reverse=True):
                prompt, length = requests[number]
                manager.add_request(prompt, str(number), max_new_tokens=length, record_timestamps=True)
            outputs = self._collect(manager, hints.num_requests)
            seconds = time.perf_counter() - started
        parents = [outputs[str(number)] for number in range(len(requests))]
        waits = [output.timestamps[0] - started for output in parents]
        return Result([output.generated_tokens for output in parents], seconds, waits)

    @staticmethod
    def _collect(manager: Any, count: int) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        while len(outputs) < count:
            output = manager.get_result(timeout=1)
            if output is not None and output.is_finished():
                if output.error is not None:
                    raise RuntimeError(output.error)
                outputs[output.request_id] = output
            elif output is None and not manager.is_running():
                raise RuntimeError("continuous batching ended before all requests did")
        return outputs
