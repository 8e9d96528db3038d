"""What a model's generation config recommends; the oracle is the file that its authors wrote."""

import json

import pytest
from transformers import GenerationConfig

from folovllm import LLM, SamplingParams
from tests.tiny_models import tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer


@pytest.fixture
def llm() -> LLM:
    return tiny_llm(tiny_model(num_hidden_layers=1))


def recommend(llm: LLM, **values) -> SamplingParams:
    llm.llm_engine.model_runner.model.generation_config = GenerationConfig(**values)
    return llm.get_default_sampling_params()


def test_what_the_authors_wrote_is_taken_and_the_rest_is_ours(tmp_path):
    tiny_model(num_hidden_layers=1).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    # As Qwen3 has it.
    written = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [2, 1]}
    (tmp_path / "generation_config.json").write_text(json.dumps(written))
    llm = LLM(str(tmp_path), swap_space=0)
    assert llm.get_default_sampling_params() == SamplingParams(temperature=0.6, top_k=20, top_p=0.95)


def test_a_config_that_says_nothing_leaves_our_defaults(llm):
    assert llm.get_default_sampling_params() == SamplingParams()
    llm.llm_engine.model_runner.model.generation_config = None
    assert llm.get_default_sampling_params() == SamplingParams()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"min_p": 0.05}, {"min_p": 0.05}),
        ({"max_new_tokens": 77}, {"max_tokens": 77}),
        ({"max_length": 77}, {}),
        ({"do_sample": False}, {}),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.6}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"top_k": 0, "typical_p": 0.9, "num_beams": 1}, {}),
    ],
    ids=str,
)
def test_the_six_that_vllm_reads_are_read(llm, values, expected):
    assert recommend(llm, **values) == SamplingParams(**expected)


def test_a_recommendation_that_is_out_of_range_is_named(llm):
    with pytest.raises(ValueError, match=r"generation config recommends {'temperature': 3.0}, but temperature must be"):
        recommend(llm, temperature=3.0)


def test_generate_takes_it_only_when_it_is_passed(llm):
    recommend(llm, temperature=0.01, max_new_tokens=5)
    plain = llm.generate([5, 6], use_tqdm=False)[0].outputs[0]
    recommended = llm.generate([5, 6], llm.get_default_sampling_params(), use_tqdm=False)[0].outputs[0]
    assert len(recommended.token_ids) == 5
    assert len(plain.token_ids) == 16 or plain.finish_reason == "stop"
