"""Compile the kernels before a learner waits for them: run a model of a few thousand random weights once.

The arguments' types are then those of every model, since it goes the way of every model.
"""

from typing import Any

from folovllm.kernels.available import kernels_to_compile, why_no_kernels


def compile_kernels() -> None:
    """Compile all kernels whose compiled code is not kept on this machine; they say so on stderr.

    Nothing happens where numba cannot be used.
    """
    if is_needed():
        use_every_kernel()


def is_needed() -> bool:
    """Return whether there are kernels, and some are still to be compiled."""
    return why_no_kernels() is None and bool(kernels_to_compile())


def use_every_kernel() -> None:
    """Generate a few tokens, so that every kernel is called with the arguments that it will have."""
    import torch
    from tokenizers import Tokenizer  # here: once all is compiled, nobody waits for these imports
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from folovllm.llm import LLM, make_engine_config
    from folovllm.sampling.sampler import apply_top_k
    from folovllm.sampling_params import SamplingParams

    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "vocab_size": 128}
    model: Any = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, max_position_embeddings=64, **sizes))
    words = Tokenizer(WordLevel({str(token): token for token in range(128)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="2")  # type: ignore[no-untyped-call]
    params = [
        SamplingParams(temperature=0, max_tokens=2),
        SamplingParams(temperature=0.7, top_k=9, top_p=0.9, min_p=0.01, max_tokens=2, seed=0, logprobs=2),
        SamplingParams(repetition_penalty=1.2, presence_penalty=0.1, max_tokens=2, seed=0),
    ]
    for model_impl in ("auto", "transformers"):  # our forward pass, and another's with our attention
        config = make_engine_config("random", device="cpu", swap_space=0, model_impl=model_impl)
        llm = LLM.from_engine_config(config, model.eval(), tokenizer)
        llm.generate([[5, 6, 7]] * len(params), params, use_tqdm=False)
    apply_top_k(torch.zeros(1, 128), torch.tensor([3]))  # alone, as a notebook uses it
