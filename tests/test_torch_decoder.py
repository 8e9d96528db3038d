"""The forward pass for cards: which models it takes, and that its logits are as near to the truth as HuggingFace's."""

import pytest
import torch

from folovllm.models.flat_batch import FlatBatch, TokenRun
from folovllm.models.kv_cache import KVCache
from folovllm.models.probe import get_attention
from folovllm.models.runner import TransformersForward
from folovllm.models.torch_decoder import TorchDecoder, why_not_on_card
from tests.pretended_device import PretendedCard
from tests.tiny_models import FAMILIES, FLAT_FAMILIES, VOCAB_SIZE, tiny_llm, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_card_it_takes_the_llama_family_and_names_what_else_it_is_given(family):
    with PretendedCard():
        model = tiny_model(family).to("cuda")
        reason = why_not_on_card(model)
        assert (reason is None) == (family in FLAT_FAMILIES)
        if reason is None:
            runner = tiny_llm(model, num_gpu_blocks_override=9, enforce_eager=True).llm_engine.model_runner
            assert type(runner.forward) is TorchDecoder
            assert not runner.records_steps
            assert tiny_llm(model, num_gpu_blocks_override=9).llm_engine.model_runner.records_steps
            runner = tiny_llm(model, num_gpu_blocks_override=9, model_impl="transformers").llm_engine.model_runner
            assert type(runner.forward) is TransformersForward
            assert not runner.is_batch_invariant
        else:
            with pytest.raises(
                ValueError, match=rf"model_impl='folovllm' cannot run this model: {type(model).__name__}"
            ):
                tiny_llm(model, num_gpu_blocks_override=9, model_impl="folovllm")


def test_a_model_with_a_hook_is_left_to_transformers():
    with PretendedCard():
        model = tiny_model().to("cuda")
        model.model.layers[1].mlp.register_forward_hook(lambda module, given, output: None)
        assert why_not_on_card(model) == "its model.layers.1.mlp has hooks"


def test_the_cpu_has_its_own():
    assert why_not_on_card(tiny_model()) == "it is on the CPU"


def error(logits: torch.Tensor, right: torch.Tensor) -> float:
    return float((logits.double() - right).norm() / right.norm())


@torch.inference_mode()
def errors(family: str, dtype: torch.dtype, seed: int) -> tuple[float, float]:
    """Return how far our logits and HuggingFace's are from those of float64 over the same weights."""
    model = tiny_model(family, num_hidden_layers=6).to(dtype)
    tokens = torch.randint(3, VOCAB_SIZE, (60,), generator=torch.Generator().manual_seed(seed))
    spec = get_attention(model)
    cache = KVCache(spec.num_layers, 4, 16, spec.num_kv_heads, spec.head_dim, dtype, model.device)
    ours = TorchDecoder(model)(FlatBatch(tokens.tolist(), list(range(60)), [TokenRun(0, 60, [2, 0, 3, 1])], cache))
    theirs = model(tokens[None]).logits[0]
    right = model.double()(tokens[None]).logits[0]
    return error(ours, right), error(theirs, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_are_as_near_to_the_truth_as_huggingfaces(dtype):
    found = [errors(family, dtype, seed) for family in FLAT_FAMILIES for seed in range(3)]
    ours, theirs = (sum(each) / len(found) for each in zip(*found, strict=True))
    assert ours <= 1.1 * theirs
    assert max(each for each, _ in found) < {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
