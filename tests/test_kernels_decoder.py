"""A whole forward pass is HuggingFace's in float32, with the same bits for any number of threads and any cut."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from folovllm.kernels import decoder
from folovllm.kernels.team import THREADS
from tests.kernel_arrays import same_bits
from tests.tiny_models import FLAT_FAMILIES, VOCAB_SIZE, tiny_model

BLOCK_SIZE = 5


def parameters_of(layer: torch.nn.Module) -> list[torch.Tensor | None]:
    attention, mlp = layer.self_attn, layer.mlp
    before = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    after = [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    return [
        layer.input_layernorm.weight, *(linear.weight for linear in before),
        layer.post_attention_layernorm.weight, *(linear.weight for linear in after),
        *(norm and norm.weight for norm in norms), *(linear.bias for linear in before + after),
    ]  # fmt: skip


@dataclass
class Decoder:
    """A HuggingFace model as the kernels see it. Its parameters stay the model's."""

    hf_model: torch.nn.Module
    num_slots: int

    def __post_init__(self) -> None:
        model, config = self.hf_model.model, self.hf_model.config
        rows = [[0 if p is None else p.data_ptr() for p in parameters_of(layer)] for layer in model.layers]
        scaling, eps = model.layers[0].self_attn.scaling, config.rms_norm_eps
        # Qwen2's config has a window for a switch that is off.
        window = config.sliding_window if config.model_type == "mistral" else None
        self.head_dim = model.layers[0].self_attn.head_dim
        self.model = decoder.Model(
            layers=np.array(rows, np.int64),
            constants=np.tile(np.array([eps, eps, eps, eps, scaling], np.float32), (len(rows), 1)),
            windows=np.full(len(rows), window or 0, np.int64),
            sizes=np.zeros(5, np.int64),
            embedding=model.embed_tokens.weight.detach().numpy(),
            norm=model.norm.weight.detach().numpy(),
            norm_eps=np.float32(eps),
            head=self.hf_model.lm_head.weight.detach().numpy(),
            head_bias=np.empty(0, np.float32),
            frequencies=model.rotary_emb.inv_freq.numpy(),
            rotary_scale=np.float32(model.rotary_emb.attention_scaling),
        )
        self.cache = np.full(
            (len(rows), 2, self.num_slots, config.num_key_value_heads, self.head_dim), np.nan, np.float32
        )

    def forward(self, token_ids, positions, pieces, tables, num_threads: int) -> np.ndarray:
        """Return the logits after every token."""
        config, n = self.hf_model.config, len(token_ids)
        heads, kv_heads = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        mlp, size, half = config.intermediate_size, config.hidden_size, self.head_dim // 2
        widths = (size, size, heads, kv_heads, kv_heads, heads, mlp, mlp, half, half, size)
        scratch = decoder.Scratch(*(np.full((n, width), np.nan, np.float32) for width in widths))
        sequences = np.concatenate([np.full(count, i) for _, count, _, i in pieces])
        slots = tables[sequences, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        step = decoder.Step(token_ids, positions, slots, np.arange(n), np.array(pieces, np.int64), tables)
        logits = np.full((n, len(self.model.head)), np.nan, np.float32)
        num_loops = decoder.OTHER_LOOPS + decoder.LOOPS_PER_LAYER * len(self.model.layers)
        THREADS.run(num_threads, num_loops, decoder.forward, self.model, step, scratch, self.cache, BLOCK_SIZE, logits)
        return logits


def run(hf_model, prompts: list[np.ndarray], lengths: list[int], num_threads: int = 1) -> list[np.ndarray]:
    """Return the logits of prompts in one batch, ``lengths[i]`` tokens of prompt i in each step."""
    rng = np.random.default_rng(sum(lengths) + num_threads)
    most_blocks = max(-(-len(prompt) // BLOCK_SIZE) for prompt in prompts)
    tables = rng.permutation(len(prompts) * most_blocks).reshape(len(prompts), most_blocks)
    model = Decoder(hf_model, tables.size * BLOCK_SIZE)
    results: list[list[np.ndarray]] = [[] for _ in prompts]
    done = [0] * len(prompts)
    while any(done[i] < len(prompt) for i, prompt in enumerate(prompts)):
        pieces, tokens, positions = [], [], []
        for i, prompt in enumerate(prompts):
            count = min(lengths[i], len(prompt) - done[i])
            if count > 0:
                pieces.append((sum(map(len, tokens)), count, done[i], i))
                tokens.append(prompt[done[i] : done[i] + count])
                positions.append(np.arange(done[i], done[i] + count))
                done[i] += count
        logits = model.forward(np.concatenate(tokens), np.concatenate(positions), pieces, tables, num_threads)
        for row, count, _, i in pieces:
            results[i].append(logits[row : row + count])
    return [np.concatenate(pieces) for pieces in results]


@pytest.fixture(scope="module", params=FLAT_FAMILIES)
def hf_model(request):
    model = tiny_model(request.param, tie_word_embeddings=False)
    with torch.no_grad():  # made as 0 and as 1, which would hide that they are left out
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(3, VOCAB_SIZE, length) for length in (70, 1, 33, 18)]


def test_logits_are_those_of_huggingface(hf_model, prompts):
    for prompt, logits in zip(prompts, run(hf_model, prompts, [70] * 4), strict=True):
        with torch.inference_mode():
            expected = hf_model(torch.from_numpy(prompt)[None]).logits[0].numpy()
        np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


def test_the_number_of_threads_changes_no_bit(hf_model, prompts):
    expected = run(hf_model, prompts, [16, 5, 1, 7])
    for num_threads in (2, 4):
        for _ in range(3):
            for a, b in zip(run(hf_model, prompts, [16, 5, 1, 7], num_threads), expected, strict=True):
                assert same_bits(a, b)


def test_the_batch_and_the_cut_change_no_bit(hf_model, prompts):
    alone = [run(hf_model, [prompt], [len(prompt)])[0] for prompt in prompts]
    for lengths in ([70, 70, 70, 70], [1, 1, 1, 1], [2, 5, 16, 1], [24, 1, 2, 3]):
        for a, b in zip(run(hf_model, prompts, lengths, 2), alone, strict=True):
            assert same_bits(a, b)
