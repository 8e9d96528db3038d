"""A GGUF file as the model; the oracle is transformers, reading the same file, and a tokenizer made by hand."""

import builtins
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from folovllm import LLM, ModelConfig, SamplingParams, get_model_and_tokenizer
from folovllm.models.gguf_loader import check_what_was_read
from tests.tiny_gguf import write_tiny_gguf
from tests.tiny_models import hf_greedy

SMALL = {"swap_space": 0, "kv_cache_memory_bytes": 2**20}
PROMPT = [70, 80, 90, 100, 110]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


def written(folder: Path, **options: object) -> str:
    write_tiny_gguf(folder / "other.gguf", **options)
    return str(folder / "other.gguf")


def test_the_tokens_are_those_of_transformers_and_eos_and_chat_template_are_the_files(file):
    llm = LLM(str(file), **SMALL)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    expected = hf_greedy(theirs, PROMPT, 12)
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    assert llm.generate({"prompt_token_ids": PROMPT}, params)[0].outputs[0].token_ids[: len(expected)] == expected
    assert llm.llm_engine.output_processor.eos_token_id == 2
    assert llm.chat_prompt([{"role": "user", "content": "th"}])["prompt"] == "<|im_start|>user\nth<|im_end|>\n"
    assert llm.llm_engine.config.model_config.max_model_len == 64


def test_a_folder_with_one_gguf_file_is_that_file_and_with_two_is_refused(file, tmp_path):
    write_tiny_gguf(tmp_path / "a.gguf")
    model, tokenizer = get_model_and_tokenizer(ModelConfig(str(tmp_path)), "cpu")
    assert model.config.hidden_size == 32
    assert tokenizer.eos_token == "<|im_end|>"
    write_tiny_gguf(tmp_path / "b.gguf")
    with pytest.raises(ValueError, match=r"holds 2 GGUF files \(a.gguf, b.gguf\); name the one"):
        get_model_and_tokenizer(ModelConfig(str(tmp_path)), "cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_weights_come_in_the_dtype_asked_for(file, dtype):
    model, _ = get_model_and_tokenizer(ModelConfig(str(file), dtype=dtype), "cpu")
    assert {weight.dtype for weight in model.parameters()} == {getattr(torch, dtype)}


def test_what_lies_beside_the_file_is_not_read(tmp_path):
    write_tiny_gguf(tmp_path / "a.gguf")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_text("broken")
    model, tokenizer = get_model_and_tokenizer(ModelConfig(str(tmp_path / "a.gguf")), "cpu")
    assert model.name_or_path == tokenizer.name_or_path == str(tmp_path / "a.gguf")


# -- how text is split -----------------------------------------------------------------------------------------

TEXT = "th 123  456th\n7 8"


def token_ids(folder: Path, pre: str | None) -> list[int]:
    return get_model_and_tokenizer(ModelConfig(written(folder, pre=pre)), "cpu")[1](TEXT).input_ids


def split_by_hand(file: Path, *steps: pre_tokenizers.PreTokenizer) -> list[int]:
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer(TEXT).input_ids


def test_digits_are_split_where_the_file_says_so_and_only_there(file, tmp_path):
    digits_alone = split_by_hand(file, pre_tokenizers.Digits(individual_digits=True))
    as_gpt2 = split_by_hand(file)
    assert digits_alone != as_gpt2
    assert token_ids(tmp_path, "smollm") == token_ids(tmp_path, "starcoder") == digits_alone
    assert token_ids(tmp_path, "gpt-2") == as_gpt2
    with pytest.warns(UserWarning, match="does not say how its tokenizer splits text"):
        assert token_ids(tmp_path, None) == as_gpt2


def test_a_way_that_transformers_knows_is_left_to_it(tmp_path):
    path = Path(written(tmp_path, pre="qwen2"))
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    assert token_ids(tmp_path, "qwen2") == theirs(TEXT).input_ids


def test_a_way_that_nobody_here_knows_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"other\.gguf.*the way 'deepseek-llm', which is not known"):
        token_ids(tmp_path, "deepseek-llm")


# -- what transformers leaves out, and what is broken ---------------------------------------------------------

LEFT_OUT = {
    "llama3's rope": ({"rope_freqs.weight": np.ones(4, np.float32)}, "leaves out its rope scaling"),
    "yarn": ({"llama__rope__scaling__type": "yarn"}, "leaves out its rope scaling"),
    "a window": ({"llama__attention__sliding_window": 8}, "leaves out its window"),
    "the oldest scaling": ({"llama__rope__scale_linear": 4.0}, "leaves out its rope scaling"),
    "a factor without a type": ({"llama__rope__scaling__factor": 4.0}, "leaves out its rope scaling"),
    "biases": ({"blk.0.attn_q.bias": np.ones(32, np.float32)}, r"in no weight of transformers.*: blk\.0\.attn_q\.bias"),
    "norms": (
        {"blk.0.attn_q_norm.weight": np.ones(8, np.float32)},
        r"in no weight of transformers.*: blk\.0\.attn_q_norm\.weight",
    ),
    "sinks": (
        {"blk.0.attn_sinks.weight": np.ones(4, np.float32)},
        r"in no weight of transformers.*: blk\.0\.attn_sinks\.weight",
    ),
    "a layer too many": (
        {"blk.2.attn_norm.weight": np.ones(32, np.float32)},
        r"in no weight of transformers.*: blk\.2\.attn_norm\.weight",
    ),
    "an unknown tensor": ({"what.weight": np.ones(32, np.float32)}, r"in no weight of transformers.*: what\.weight"),
    "attention both ways": ({"llama__attention__causal": False}, r"leaves out its 'attention\.causal' \(False\)"),
    "experts": ({"llama__expert_count": 4}, r"leaves out its 'expert_count' \(4\)"),
    "a scale": ({"llama__residual_scale": 5.0}, r"leaves out its 'residual_scale' \(5\.0\)"),
    "a cap": ({"llama__final_logit_softcapping": 1.0}, r"leaves out its 'final_logit_softcapping'"),
    "what nobody knows": ({"llama__new_idea": "yes"}, r"leaves out its 'new_idea' \('yes'\)"),
    "one part of several": ({"split__count": 3}, "one of 3 files"),
    "a missing tensor": ({"without": "blk.1.ffn_up"}, r"missing from the checkpoint: model\.layers\.1\.mlp\.up_proj"),
}


@pytest.mark.parametrize(("options", "message"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_a_file_that_would_be_computed_otherwise_than_it_says_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=rf"(?s)other\.gguf.*{message}"):
        LLM(written(tmp_path, **options), **SMALL)


def test_what_the_file_says_of_its_rope_can_be_given_by_hand(tmp_path):
    path = written(tmp_path, llama__rope__scaling__type="yarn")
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    llm = LLM(path, hf_overrides={"rope_parameters": yarn}, **SMALL)
    assert llm.llm_engine.config.model_config.max_model_len == 256
    assert llm.llm_engine.model_runner.model.config.rope_parameters["rope_theta"] == 100000


NO_OBSTACLES = {
    "no scaling": {"llama__rope__scaling__type": "none", "llama__rope__scaling__factor": 4.0},
    "no experts, causal": {"llama__expert_count": 0, "llama__attention__causal": True, "llama__residual_scale": 1.0},
    "sizes": {"llama__attention__key_length": 8, "llama__expert_feed_forward_length": 64},
    "an own head": {"output.weight": np.ones((261, 32), np.float32)},
    "one part": {"split__count": 1},
    "what says nothing of the model": {"general__new_idea": "yes"},
}


@pytest.mark.parametrize("options", NO_OBSTACLES.values(), ids=NO_OBSTACLES)
def test_what_changes_nothing_is_no_obstacle(tmp_path, options):
    LLM(written(tmp_path, **options), **SMALL)


def test_layers_that_hf_overrides_cut_off_are_no_obstacle_and_others_are(tmp_path):
    one_layer = {"hf_overrides": {"num_hidden_layers": 1}, **SMALL}
    LLM(written(tmp_path), **one_layer)
    path = written(tmp_path, **{"blk.2.attn_norm.weight": np.ones(32, np.float32)})
    with pytest.raises(ValueError, match=r"in no weight of transformers.*: blk\.2\.attn_norm\.weight"):
        LLM(path, **one_layer)


def test_a_file_that_says_another_number_of_angles_than_the_family_has_is_refused(file):
    config = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).config
    config.head_dim = 16
    with pytest.raises(ValueError, match=r"leaves out its 'rope.dimension_count' \(8\)"):
        check_what_was_read(file, config, config, AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("size", [0, 3, 100, 5000, -100])
def test_a_file_that_was_cut_off_is_named(file, tmp_path, size):
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut\.gguf"):
        LLM(str(tmp_path / "cut.gguf"), **SMALL)


def test_another_kind_of_file_is_named(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"must end in \.gguf.*model\.bin"):
        LLM(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_missing_package_is_named(file, monkeypatch, package):
    original = builtins.__import__

    def without(name, *given, **options):
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return original(name, *given, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=f"needs the package '{package}': pip install {package}"):
        LLM(str(file))
