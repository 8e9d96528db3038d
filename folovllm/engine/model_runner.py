"""Turn a scheduled step into one flat batch, run the model, return the logits that are needed.

The new tokens of all sequences lie side by side in one row ``[1, num_tokens]`` with their own
positions; prompts and decoding steps are mixed and nothing is padded. (vLLM: ``v1/worker/gpu_model_runner.py``.)
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from folovllm.engine.kv_cache import KVCache
from folovllm.engine.paged_attention import ATTENTION_NAME, PagedBatch, TokenRun
from folovllm.engine.scheduler import SchedulerOutput


class ModelRunner:
    """Owns the model and the KV tensors.

    num_tokens_run: tokens that went through the model since it was made, for whoever wants to count.
    """

    def __init__(self, model: PreTrainedModel, kv_cache: KVCache) -> None:
        model.set_attn_implementation(ATTENTION_NAME)
        self.model: PreTrainedModel = model.eval()  # type: ignore[no-untyped-call]
        self.kv_cache = kv_cache
        self.num_tokens_run = 0

    @torch.inference_mode()
    def execute(self, step: SchedulerOutput) -> Tensor:
        """Run one step.

        Returns float32 logits ``[num_rows, vocab]``: for each scheduled sequence in turn, one row
        for each of its ``logits_positions``.
        """
        self.kv_cache.swap_out(step.blocks_to_swap_out)
        self.kv_cache.swap_in(step.blocks_to_swap_in)
        self.kv_cache.copy_blocks(step.blocks_to_copy)
        if not step.scheduled:  # nothing is left but to report what an interrupted step finished
            return torch.empty(0, self.model.config.get_text_config().vocab_size)
        token_ids: list[int] = []
        rows: list[int] = []
        runs: list[TokenRun] = []
        for item in step.scheduled:
            rows += [len(token_ids) + position for position in item.logits_positions]
            runs.append(TokenRun(item.start, len(item.token_ids), item.sequence.block_ids))
            token_ids += item.token_ids
        return self._forward(token_ids, rows, runs)

    def _forward(self, token_ids: list[int], rows: list[int], runs: list[TokenRun]) -> Tensor:
        device = self.kv_cache.data.device
        batch = PagedBatch(runs, self.kv_cache)
        input_ids = torch.tensor([token_ids], device=device)
        output = self.model(
            input_ids=input_ids,
            # Nothing is masked by it; without one some models search every prompt for padding tokens.
            attention_mask=torch.ones_like(input_ids),
            position_ids=batch.position_ids[None],
            use_cache=False,
            logits_to_keep=torch.tensor(rows, dtype=torch.long, device=device),
            paged_batch=batch,
        )
        self.num_tokens_run += len(token_ids)
        logits: Tensor = output.logits[0].float()
        return logits

    @torch.inference_mode()
    def profile(self, num_tokens: int) -> None:
        """Run the largest possible step once, on whatever the blocks hold, to see the memory it takes."""
        num_blocks, block_size = self.kv_cache.data.shape[2:4]
        num_tokens = min(num_tokens, num_blocks * block_size)
        self._forward([0] * num_tokens, [0], [TokenRun(0, num_tokens, list(range(num_blocks)))])
