"""Families that are each a reason of their own: the same greedy tokens as HuggingFace, or refused in a sentence.

All families: ``scripts/sweep_families.py``.
"""

import re

import pytest
import torch
from transformers import LlamaForCausalLM, ViTConfig

from folovllm.models.probe import UnsupportedModelError, probe_attention
from tests.small_families import small_config, small_model, try_family
from tests.tiny_models import tiny_config, tiny_llm

EQUAL = {
    "afmoe": {},  # takes a view of what attention returns
    "bert": {},  # a decoder only if its config says so
    "cohere2": {},  # a window in some layers, no positions in the others
    "deepseek_v3": {"v_head_dim": 12},  # values smaller than keys
    "deepseek_v2": {"v_head_dim": 24},  # values larger than keys
    "diffllama": {},  # calls attention twice a layer
    "emu3": {},  # the text part of a model that has more
    "gemma4_text": {},  # larger heads in some layers
    "gemma3_text": {},  # a window in some layers, two bases of rotation
    "hrm_text": {},  # runs its layers several times
    "modernbert-decoder": {},  # its window counts differently
    "opt": {},  # learned positions
    "phimoe": {},  # a window in its mask only
    "qwen2": {"layer_types": ["full_attention", "sliding_attention"]},
    "smollm3": {},  # some layers without positions
    "stablelm": {},  # hands no keyword arguments on
}
REFUSED = {
    "bailing_hybrid": r"1 of its 3 layers use .* recurrent state",
    "bart": "takes no position_ids",
    "bloom": "none of its 2 layers use",
    "doge": "a mask of the model's own making",
    "falcon": "none of its 2 layers use",
    "falcon_h1": "tokens reach others by another way than attention, such as a convolution",
    "gemma2": r"a cap on its scores \(softcap\)",
    "glm_moe_dsa": r"a choice of the tokens it sees \(indices\)",
    "gpt_oss": r"attention sinks \(s_aux\)",
    "jetmoe": "looks at the values of its tensors",
    "llama4_text": "its attention works on pieces of 8 tokens each",
    "moshi": "its cache keeps 8 tokens, where its mask lets a token see others",
    "mpt": "none of its 2 layers use",
    "nemotron_h": r"1 of its \d layers use .* recurrent state",
    "whisper": "takes no position_ids",
    "zaya": "tokens reach others by another way than attention",
}


@pytest.mark.parametrize("family", EQUAL)
def test_tokens_equal_huggingfaces(family):
    verdict = try_family(family, small_config(family, **EQUAL[family]))
    assert verdict.kind == "equal", verdict


@pytest.mark.parametrize("family", REFUSED)
def test_a_refusal_says_in_a_sentence_what_the_model_needs(family):
    verdict = try_family(family)
    assert verdict.kind == "refused", verdict
    assert re.search(REFUSED[family], verdict.detail), verdict
    assert not re.search(r"\n|folovllm_|[mM]eta\b|Error|Tensor\.", verdict.detail), verdict


def test_without_is_decoder_bert_sees_what_follows_and_is_refused():
    verdict = try_family("bert", small_config("bert", is_decoder=False))
    assert verdict.kind == "refused"
    assert "a token sees those after it" in verdict.detail


def test_positions_counted_from_the_row_are_refused_also_where_they_count_only_from_some_place_on():
    layers = {"layer_types": ["full_attention"] * 2, "no_rope_layers": [0, 0], "num_hidden_layers": 2}
    with pytest.raises(UnsupportedModelError, match="counts the positions of a row itself, and calculates with them"):
        probe_attention(small_config("llama4_text", **layers, floor_scale=8192, attn_scale=0.1))
    layers["no_rope_layers"] = [1, 1]  # rotated by the positions they are given
    assert try_family("llama4_text", small_config("llama4_text", **layers)).kind == "equal"


def test_a_class_of_ones_own_that_counts_positions_is_refused_whatever_its_config_is():
    class Mine(LlamaForCausalLM):
        def forward(self, input_ids=None, position_ids=None, **kwargs):
            late = torch.arange(input_ids.shape[1], device=input_ids.device) >= 4096
            embeds = self.model.embed_tokens(input_ids) * torch.where(late, 2.0, 1.0)[:, None]
            return super().forward(inputs_embeds=embeds, position_ids=position_ids, **kwargs)

    with pytest.raises(UnsupportedModelError, match="counts the positions of a row itself"):
        tiny_llm(Mine(tiny_config()).eval())


@pytest.mark.parametrize("family", ["phimoe", "mixtral", "qwen3_moe"])
def test_a_window_larger_than_the_self_tests_is_known_from_the_mask(family):
    config = small_config(family, sliding_window=4096, max_position_embeddings=8192)
    assert probe_attention(config).windows == (4096, 4096)


def test_a_config_that_automodel_cannot_build_is_refused_with_the_error_as_its_cause():
    with pytest.raises(UnsupportedModelError, match="cannot build a model from its config") as caught:
        probe_attention(ViTConfig())
    assert caught.value.__cause__ is not None


def test_what_is_refused_is_refused_before_anything_is_changed():
    model = small_model(small_config("llama4_text"))
    before = model.config._attn_implementation
    with pytest.raises(UnsupportedModelError):
        tiny_llm(model)
    assert model.config._attn_implementation == before
