"""The engines that are measured, each behind the same two calls: make it, run a workload."""

from abc import ABC, abstractmethod

import torch
from workloads import Workload

from folovllm import LLM, SamplingParams, get_model_and_tokenizer
from folovllm.config import ModelConfig


class Peer(ABC):
    """One engine with the bundled model loaded."""

    @abstractmethod
    def run(self, workload: Workload) -> list[list[int]]:
        """Generate; return the output tokens of every prompt (of its first completion)."""


class FoloVLLM(Peer):
    """This project's engine; prefix cache emptied before every run, so that no run profits from another."""

    def __init__(self) -> None:
        self.llm = LLM(device="cpu")

    def run(self, workload: Workload) -> list[list[int]]:  # noqa: D102
        self.llm.llm_engine.reset_prefix_cache()
        prompts = [{"prompt_token_ids": prompt} for prompt in workload.prompts]
        outputs = self.llm.generate(prompts, [self._params(workload, n) for n in workload.max_tokens], use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]

    @staticmethod
    def _params(workload: Workload, max_tokens: int) -> SamplingParams:
        # min_tokens masks EOS until the end, as HuggingFace's min_new_tokens does.
        length = {"max_tokens": max_tokens, "min_tokens": max_tokens}
        if workload.num_completions == 1:
            return SamplingParams(temperature=0, **length)
        return SamplingParams(n=workload.num_completions, temperature=0.8, top_p=0.9, seed=0, **length)


class HuggingFace(Peer):
    """``generate``, as it comes. batched: all prompts at once, padded on the left; else one by one."""

    def __init__(self, batched: bool) -> None:
        self.batched = batched
        self.model, tokenizer = get_model_and_tokenizer(ModelConfig(), device="cpu")
        self.pad_token_id = tokenizer.pad_token_id

    def run(self, workload: Workload) -> list[list[int]]:  # noqa: D102
        if self.batched:
            # A static batch runs until its longest text is done; the surplus of the others is cut off.
            outputs = self._generate(workload.prompts, max(workload.max_tokens), workload.num_completions)
            return [tokens[:count] for tokens, count in zip(outputs, workload.max_tokens, strict=True)]
        each = zip(workload.prompts, workload.max_tokens, strict=True)
        return [self._one(prompt, count, workload.num_completions) for prompt, count in each]

    def _one(self, prompt: list[int], max_tokens: int, num_completions: int) -> list[int]:
        completions = [self._generate([prompt], max_tokens, 1)[0] for _ in range(num_completions)]
        return completions[0]

    def _generate(self, prompts: list[list[int]], max_tokens: int, num_completions: int) -> list[list[int]]:
        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad_token_id] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        drawn = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0}
        output = self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max_tokens,
            min_new_tokens=max_tokens,
            num_return_sequences=num_completions,
            **(drawn if num_completions > 1 else {"do_sample": False}),
        )
        return output[::num_completions, width:].tolist()


PEERS = {
    "folovllm": FoloVLLM,
    "hf-one-by-one": lambda: HuggingFace(batched=False),
    "hf-static": lambda: HuggingFace(batched=True),
}
