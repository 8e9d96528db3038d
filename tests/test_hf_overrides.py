"""``hf_overrides``: the oracle is the same checkpoint with these values in its config.json."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

from folovllm import LLM, EngineConfig, ModelConfig, SamplingParams
from folovllm.models.hf_overrides import override_config
from folovllm.models.probe import UnsupportedModelError
from tests.tiny_models import hf_greedy, tiny_config, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

SMALL = {"swap_space": 0, "kv_cache_memory_bytes": 2**20}
PROMPT = list(range(5, 45))
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for family in ("llama", "mistral", "qwen2", "gpt2"):
        made[family] = tmp_path_factory.mktemp("models") / family
        tiny_model(family).save_pretrained(made[family])
        byte_level_tokenizer().save_pretrained(made[family])
    return made


def greedy(llm: LLM) -> list[int]:
    params = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
    return llm.generate({"prompt_token_ids": PROMPT}, params, use_tqdm=False)[0].outputs[0].token_ids


OVERRIDES = {
    "a window": ("mistral", {"sliding_window": 8}, {}),
    "a window that layers are chosen for": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
        {"layer_types": ["sliding_attention"] * 2},
    ),
    "fewer layers": ("llama", {"num_hidden_layers": 1}, {}),
    "fewer layers of kinds": ("qwen2", {"num_hidden_layers": 1}, {"layer_types": ["full_attention"]}),
    "rope": ("llama", {"rope_parameters": YARN}, {"rope_parameters": YARN | {"rope_theta": 10000.0}}),
    "rope in the old words": ("llama", {"rope_scaling": YARN}, {"rope_parameters": YARN | {"rope_theta": 10000.0}}),
    "the old theta": ("llama", {"rope_theta": 5.0}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}),
    "a name that the family spells otherwise": ("gpt2", {"num_hidden_layers": 1}, {"n_layer": 1}),
    "eps": ("llama", {"rms_norm_eps": 10.0}, {}),
}


@pytest.mark.parametrize(("family", "overrides", "in_the_file"), OVERRIDES.values(), ids=OVERRIDES)
def test_the_tokens_are_those_of_a_checkpoint_with_that_config(folders, tmp_path, family, overrides, in_the_file):
    edited = shutil.copytree(folders[family], tmp_path / "edited")
    config = json.loads((edited / "config.json").read_text())
    own = {key: value for key, value in overrides.items() if key in config}
    (edited / "config.json").write_text(json.dumps(config | own | in_the_file))
    theirs = AutoModelForCausalLM.from_pretrained(edited, dtype=torch.float32).eval()
    llm = LLM(str(folders[family]), hf_overrides=overrides, **SMALL)
    assert greedy(llm) == hf_greedy(theirs, PROMPT, 8)
    assert greedy(llm) != greedy(LLM(str(folders[family]), **SMALL))


def test_a_function_may_change_the_config(folders):
    def longer(config):
        config.rope_scaling = dict(YARN)
        config.sliding_window = 8
        return config

    llm = LLM(str(folders["mistral"]), hf_overrides=longer, **SMALL)
    same = LLM(str(folders["mistral"]), hf_overrides={"rope_parameters": YARN, "sliding_window": 8}, **SMALL)
    assert greedy(llm) == greedy(same)
    assert llm.llm_engine.config.model_config.max_model_len == 2048


def test_the_length_follows(folders):
    for overrides, length in (({"max_position_embeddings": 99}, 99), ({"rope_parameters": YARN}, 2048)):
        llm = LLM(str(folders["llama"]), hf_overrides=overrides, **SMALL)
        assert llm.llm_engine.config.model_config.max_model_len == length


def test_the_end_of_a_text_follows_although_the_generation_config_has_a_file(folders):
    llm = LLM(str(folders["llama"]), hf_overrides={"eos_token_id": [7, 9]}, **SMALL)
    processor = llm.llm_engine.output_processor
    assert {processor.eos_token_id, *processor.extra_eos_token_ids} == {7, 9}


def test_a_config_inside_a_config_is_changed_in_its_place():
    text = tiny_config("gemma3-window").to_dict()
    config = override_config(Gemma3Config(text_config=text), {"text_config": {"sliding_window": 8}})
    assert config.text_config.sliding_window == 8
    assert config.text_config.hidden_size == text["hidden_size"]


REFUSED = {
    "an unknown key": ({"slidin_window": 8}, "no key 'slidin_window'; did you mean 'sliding_window'"),
    "an unknown key in a config inside": ({"text_config": {"hidden_size": 1}}, "no key 'text_config'"),
    "what vLLM's example has": ({"max_model_len": 99}, r"setting of its own: LLM\(max_model_len"),
    "a class": ({"architectures": ["X"]}, "'architectures' has no effect"),
    "a method": ({"to_dict": 1}, "no key 'to_dict'"),
    "a wrong type": ({"num_hidden_layers": "many"}, "num_hidden_layers.*expected int, got str"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads must be an int >= 1, got 0"),
    "negative heads": ({"num_key_value_heads": -2}, "num_key_value_heads must be an int >= 1, got -2"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers must be an int >= 1, got 0"),
    "less than no length": ({"max_position_embeddings": -3}, "max_position_embeddings must be an int >= 1, got -3"),
    "no words": ({"vocab_size": 0}, "vocab_size must be an int >= 1, got 0"),
    "heads that do not divide": (
        {"num_key_value_heads": 3},
        "num_attention_heads must be a multiple of num_key_value_heads, got 4 and 3",
    ),
    "an unknown activation": ({"hidden_act": "nope"}, "hidden_act must be one of .*silu.*, got 'nope'"),
    "an unknown rope": ({"rope_parameters": {"rope_type": "nope"}}, "rope_type must be one of default, .*, got 'nope'"),
    "rope by kinds of layer": (
        {"rope_parameters": {"full_attention": YARN | {"rope_theta": 1e4}}},
        "must be one set of settings for all layers, got some for 'full_attention'",
    ),
    "a key of the old family": ({"model_type": "gpt2", "rms_norm_eps": 1.0}, "no key 'rms_norm_eps'"),
    "an unknown family": ({"model_type": "lama"}, "that transformers knows, got 'lama'; did you mean 'llama'"),
    "no family": ({"model_type": None}, "that transformers knows, got None"),
    "no window": ({"sliding_window": -3}, "sliding_window must be an int >= 1, got -3"),
    "no base of angles": ({"rope_theta": 0.0}, "rope_theta must be a finite number > 0, got 0.0"),
    "a negative eps": ({"rms_norm_eps": -1.0}, "rms_norm_eps must be a finite number >= 0, got -1.0"),
    "another width": ({"hidden_size": 128}, "stored in another shape"),
    "more layers": (
        {"num_hidden_layers": 3},
        r"missing from the checkpoint: model\.layers\.2.* and 6 more \(9 in all\)",
    ),
    "a rope that depends on the batch": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        "'dynamic' depends on",
    ),
    "a function that returns nothing": (lambda config: None, "must return a config, got None"),
    "a function that fails": (lambda config: config.nothing, "has no attribute 'nothing'"),
    "a function that sets what there is not": (lambda config: setattr(config, "x", 1) or config, "no key 'x'"),
}


@pytest.mark.parametrize(("overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_have_no_effect_or_does_not_fit_is_refused(folders, overrides, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        LLM(str(folders["mistral"]), hf_overrides=overrides, **SMALL)


@pytest.mark.parametrize("number", [0, -1, 5])
def test_a_token_has_at_least_one_expert_and_at_most_all(number):
    with pytest.raises(ValueError, match=f"num_experts_per_tok must be an int >= 1 and <= 4, got {number}"):
        override_config(tiny_config("qwen3-moe"), {"num_experts_per_tok": number})


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (YARN, "must be given for each of full_attention, sliding_attention, got 'yarn' for all"),
        (
            {"some_attention": YARN | {"rope_theta": 1e4}},
            "for full_attention, sliding_attention, got some for 'some_att",
        ),
        ({"full_attention": {"rope_type": "nope", "rope_theta": 1.0}}, "rope_type must be one of"),
    ],
)
def test_rope_settings_where_a_family_does_not_look_are_refused(rope, message):
    with pytest.raises(ValueError, match=message):
        override_config(tiny_config("gemma3-window"), {"rope_parameters": rope})


def test_rope_settings_by_kinds_of_layer_are_taken_where_there_are_such():
    rope = {"full_attention": YARN | {"rope_theta": 1e4}}
    changed = override_config(tiny_config("gemma3-window"), {"rope_parameters": rope})
    assert changed.rope_parameters["full_attention"]["factor"] == 4


def test_another_family_brings_its_own_keys(folders):
    llm = LLM(str(folders["llama"]), hf_overrides={"model_type": "mistral", "sliding_window": 8}, **SMALL)
    theirs = AutoModelForCausalLM.from_pretrained(
        folders["llama"], config=override_config(tiny_config("mistral"), {"sliding_window": 8}), dtype=torch.float32
    )
    assert greedy(llm) == hf_greedy(theirs.eval(), PROMPT, 8) != greedy(LLM(str(folders["llama"]), **SMALL))
    by_function = override_config(tiny_config("llama"), lambda _: tiny_config("mistral", sliding_window=8))
    assert (by_function.model_type, by_function.sliding_window) == ("mistral", 8)


def test_overrides_are_copied_when_given():
    overrides = {"rope_parameters": {"factor": 2.0}}
    config = ModelConfig(hf_overrides=overrides)
    overrides["rope_parameters"]["factor"] = 3.0
    assert config.hf_overrides == {"rope_parameters": {"factor": 2.0}}


# -- over a model that is loaded already -------------------------------------------------------------------


@pytest.mark.parametrize("setting", [{"hf_overrides": {"sliding_window": 8}}, {"revision": "v1"}])
def test_for_a_model_that_is_loaded_they_come_too_late(setting):
    config = EngineConfig(ModelConfig("tiny", **setting))
    with pytest.raises(ValueError, match=f"ModelConfig.{next(iter(setting))} comes too late"):
        LLM.from_engine_config(config, tiny_model(), byte_level_tokenizer())


def test_other_settings_over_the_same_model_keep_its_overrides(folders):
    llm = LLM(str(folders["mistral"]), hf_overrides={"sliding_window": 8}, **SMALL)
    again = llm.with_settings(block_size=8, **SMALL)
    assert again.llm_engine.config.model_config.hf_overrides == {"sliding_window": 8}
    assert greedy(again) == greedy(llm)
    rebuilt = LLM.from_engine_config(llm.llm_engine.config, llm.llm_engine.model_runner.model, llm.get_tokenizer())
    assert greedy(rebuilt) == greedy(llm)
    for name, value in (("hf_overrides", {}), ("revision", "v1"), ("tokenizer_revision", "v1"), ("tokenizer", "t")):
        with pytest.raises(ValueError, match=f"'{name}' belongs to the loaded model"):
            llm.with_settings(**{name: value})


def test_the_refusal_of_a_family_keeps_its_class(folders):
    with pytest.raises(UnsupportedModelError):
        LLM(str(folders["llama"]), hf_overrides={"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, **SMALL)
