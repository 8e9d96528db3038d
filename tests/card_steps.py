"""What a decoding step asks of a card, counted on the pretended one; the table: ``python -m tests.card_steps``."""

from functools import cache
from typing import Any

import torch
from transformers import DynamicCache

from folovllm import SamplingParams
from tests.pretended_device import Counts, PretendedCard
from tests.tiny_models import tiny_llm, tiny_model

NUM_LAYERS = 30
"""As many as the bundled model has: what a step does once must not look like more than it is."""

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
TOP_P = SamplingParams(temperature=0.8, top_p=0.9, seed=1, max_tokens=8, ignore_eos=True)
EVERYTHING = SamplingParams(
    temperature=0.8, top_k=50, top_p=0.9, min_p=0.01, seed=1, max_tokens=8, ignore_eos=True, logprobs=2,
    repetition_penalty=1.1, frequency_penalty=0.1, logit_bias={5: 1.0}, min_tokens=8, bad_words=["x"],
)  # fmt: skip
PARAMS = {"greedy": [GREEDY], "top-p": [TOP_P], "all filters": [EVERYTHING], "mixed": [GREEDY, TOP_P, EVERYTHING]}


def decoding_step(num_seqs: int, every: list[SamplingParams], num_layers: int = NUM_LAYERS, **settings: Any) -> Counts:
    """Return what a step asks for in which every sequence decodes.  settings: of the engine."""
    with PretendedCard() as card:
        model = tiny_model(num_hidden_layers=num_layers).to("cuda")
        engine = tiny_llm(model, num_gpu_blocks_override=8 * num_seqs, **settings).llm_engine
        for i in range(num_seqs):
            engine.add_request(str(i), {"prompt_token_ids": [3 + i, *range(9, 20 + i % 5)]}, every[i % len(every)])
        for _ in range(4):
            with card.counting() as counts:
                outputs = engine.step()
            for output in outputs:
                if output.error is not None:
                    raise output.error
        assert len(outputs) == num_seqs
        return counts


@cache
def huggingface_forward(num_seqs: int) -> Counts:
    """Return what HuggingFace's own forward pass asks for, a token of each sequence and its past in a padded cache."""
    with PretendedCard() as card, torch.inference_mode():
        model = tiny_model(num_hidden_layers=NUM_LAYERS).to("cuda")
        cache = DynamicCache(config=model.config)
        model(input_ids=torch.full((num_seqs, 12), 5, device="cuda"), past_key_values=cache)
        token = torch.full((num_seqs, 1), 5, device="cuda")
        mask = torch.ones(num_seqs, 13, dtype=torch.long, device="cuda")
        with card.counting() as counts:
            model(input_ids=token, attention_mask=mask, past_key_values=cache)
        return counts


def table() -> str:
    """Return the table, a line for each number of sequences and each way to draw."""
    lines = ["| sequences | drawn | operators | recorded | uploads | downloads | waits | HuggingFace's forward |"]
    lines += ["|--:|---|--:|--:|--:|--:|--:|--:|"]
    for num_seqs in (1, 8, 32):
        theirs = huggingface_forward(num_seqs).operators
        for name, every in PARAMS.items():
            eager = decoding_step(num_seqs, every, enforce_eager=True)
            ours = decoding_step(num_seqs, every)
            transfers = f"{ours.uploads} ({ours.bytes_up} B)", f"{ours.downloads} ({ours.bytes_down} B)"
            numbers = eager.operators, ours.operators, *transfers
            lines.append(f"| {num_seqs} | {name} | {' | '.join(map(str, numbers))} | {ours.waits} | {theirs} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
