"""Whatever is broken or missing in a model's folder: a ValueError that names the file or the weights, and no model.

The oracle is the damage that was done: every file, cut, emptied, or of another kind.
"""

import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from folovllm import LLM, EngineConfig, ModelConfig, get_model_and_tokenizer
from folovllm.llm import LLMEngine
from folovllm.model_loader import ModelLoader
from tests.tiny_models import FAMILIES, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

UP = "model.layers.0.mlp.up_proj.weight"
Q_BIAS = "model.layers.0.self_attn.q_proj.bias"
Q_NORM = "model.layers.0.self_attn.q_norm.weight"
LORA_A = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
LAYER_1 = "model.layers.1.input_layernorm.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "tiny"
    tiny_model(num_hidden_layers=1).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|im_end|>"}')
    (folder / "added_tokens.json").write_text("{}")
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "tiny")


def load(folder: Path) -> object:
    return get_model_and_tokenizer(ModelConfig(str(folder)), "cpu")


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        load(folder)
    assert caught.value.__cause__ is not None, "the cause is lost"


JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
CONTENTS = {"cut": b'{"a": [1, ', "empty": b"", "a list": b"[]", "a number": b"5", "null": b"null", "a string": b'"x"',
            "no JSON": b"hello", "no text": b"\xff\xfe\x00\x80"}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", JSON_FILES)
def test_a_broken_json_file_is_named(folder, name, content):
    (folder / name).write_bytes(content)
    assert_refused(folder, f"{folder / name} (is broken|holds a)")


WRONG = {
    "config.json": [
        {"model_type": 5}, {"model_type": "nope"}, {"vocab_size": "x"}, {"num_hidden_layers": None},
        {"num_attention_heads": 0}, {"hidden_act": "nope"}, {"rope_parameters": 5}, {"eos_token_id": "x"},
        {"architectures": 5}, {"dtype": "nope"}, {"max_position_embeddings": "x"},
    ],
    "generation_config.json": [{"eos_token_id": "abc"}, {"eos_token_id": [2, "x"]}, {"eos_token_id": 2.5}],
    "tokenizer.json": [{"model": 5}, {"model": {}}, {"added_tokens": 5}, {"pre_tokenizer": 5}],
    "tokenizer_config.json": [
        {"model_max_length": "long"}, {"tokenizer_class": 5}, {"added_tokens_decoder": 5},
        {"added_tokens_decoder": {"x": {}}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "wrong"), [(name, each) for name in WRONG for each in WRONG[name]], ids=str)
def test_a_value_of_the_wrong_kind_is_refused_with_the_files_it_may_be_in(folder, name, wrong):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | wrong))
    assert_refused(folder, str(folder / name))


CANNOT_BE = {
    "num_hidden_layers must be an int >= 1, got 0": {"num_hidden_layers": 0},
    "num_attention_heads must be an int >= 1, got -4": {"num_attention_heads": -4},
    "max_position_embeddings must be an int >= 1, got -3": {"max_position_embeddings": -3},
    "hidden_act must be one of": {"hidden_act": "nope"},
    "rope_type must be one of default, .*, got 'nope'": {"rope_parameters": {"rope_type": "nope", "rope_theta": 1e4}},
    "rope_type must be one of .* got 'n'": {"rope_parameters": None, "rope_scaling": {"type": "n"}, "rope_theta": 1e4},
    "one set of settings for all layers": {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
}


@pytest.mark.parametrize("message", CANNOT_BE)
def test_a_config_that_no_model_can_have_is_refused_before_the_weights_load(folder, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | CANNOT_BE[message]))
    assert_refused(folder, f"its config cannot be loaded.*{folder / 'config.json'}.*{message}")


def test_a_tokenizer_json_without_added_tokens_is_named(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "added_tokens"}))
    assert_refused(folder, f"{path} is broken .*lacks the list 'added_tokens'")


def test_an_empty_tokenizer_json_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    assert_refused(folder, f"{folder / 'tokenizer.json'} is broken")


@pytest.mark.parametrize("content", [b"{% for m in messages %}", b"{{ messages[ }}", b"\xff\xfe"])
def test_a_broken_chat_template_is_named(folder, content):
    (folder / "chat_template.jinja").write_bytes(content)
    assert_refused(folder, f"{folder / 'chat_template.jinja'} is broken")


@pytest.mark.parametrize("template", [5, "{% if"])
def test_a_broken_chat_template_in_the_tokenizers_config_is_refused(folder, template):
    (folder / "chat_template.jinja").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    assert_refused(folder, str(path))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert_refused(folder, f"not there: .*{name}")


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gemma"])
def test_a_folder_without_a_tokenizer_is_refused_although_transformers_makes_an_empty_one(tmp_path, family):
    tiny_model(family).save_pretrained(tmp_path)
    assert_refused(tmp_path, "ModelConfig.tokenizer=.*not there: .*tokenizer.json")


@pytest.mark.parametrize("size", [0, 5, 100, 5000])
def test_weights_that_were_cut_off_are_named(folder, size):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert_refused(folder, f"{path} is broken")


@pytest.fixture
def in_the_old_format(folder) -> Path:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("content", [b"junk", b"", b"version https://git-lfs.github.com/spec/v1\n", b"PK\x03\x04"])
def test_weights_in_the_old_format_load_and_are_named_if_broken(in_the_old_format, content):
    load(in_the_old_format)
    path = in_the_old_format / "pytorch_model.bin"
    path.write_bytes(content)
    assert_refused(in_the_old_format, rf"{path} is broken \(torch.load cannot read it")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_in_the_old_format_may_need_no_scale_either(in_the_old_format, dtype):
    path = in_the_old_format / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    torch.save(weights | {UP: weights[UP].to(dtype)}, path)
    message = rf"needs a scale.*{UP} \({str(dtype).removeprefix('torch.')}\)"
    assert_refused(in_the_old_format, message)
    path.rename(in_the_old_format / "pytorch_model-1.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "pytorch_model-1.bin")}
    (in_the_old_format / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert_refused(in_the_old_format, message)


def test_weights_in_the_oldest_format_load(in_the_old_format):
    path = in_the_old_format / "pytorch_model.bin"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    load(in_the_old_format)


# -- shards ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sharded(folder) -> Path:
    (folder / "model.safetensors").unlink()
    tiny_model().save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("model-*"))) > 1
    return folder


def test_shards_load(sharded):
    load(sharded)


def test_a_missing_shard_is_named(sharded):
    shard = sorted(sharded.glob("model-*"))[1]
    shard.unlink()
    assert_refused(sharded, f"{shard} is broken")


def test_a_shard_that_was_cut_off_is_named(sharded):
    shard = sorted(sharded.glob("model-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    assert_refused(sharded, f"{shard} is broken")


META = '"metadata": {}'
BROKEN_INDICES = [
    "{", "[]", "{}", '{"weight_map": 5}', '{"weight_map": {"a": "b"}}', f'{{{META}, "weight_map": {{}}}}',
    *(f'{{{META}, "weight_map": {{"a": {shard}}}}}' for shard in ("5", "null", '""', '"../b"', '"/b"')),
]  # fmt: skip


@pytest.mark.parametrize("content", BROKEN_INDICES)
def test_a_broken_index_is_named(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    assert_refused(sharded, f"{sharded / 'model.safetensors.index.json'} (is broken|holds a)")


def test_a_shard_outside_the_folder_is_refused_although_it_could_be_read(sharded):
    shard = sorted(sharded.glob("model-*"))[0]
    shard.rename(sharded.parent / shard.name)
    index = sharded / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    assert_refused(sharded, f"{index} is broken.*names '../{shard.name}'")


def test_of_a_single_file_beside_shards_the_single_one_counts(sharded):
    weights = {name: weight for shard in sharded.glob("model-*") for name, weight in load_file(shard).items()}
    weights[UP] = weights[UP].to(torch.int8)
    save_file(weights, sharded / "model.safetensors", metadata={"format": "pt"})
    assert_refused(sharded, rf"needs a scale.*{UP} \(I8\)")


# -- weights ---------------------------------------------------------------------------------------------------

Weights = dict[str, torch.Tensor]


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: weights[name] for name in weights if name not in names}


DAMAGES: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "one missing": (without(UP), f"missing from the checkpoint: {UP}"),
    "five missing": (lambda w: dict(list(w.items())[5:]), r"missing.* and 2 more \(5 in all\)"),
    "the head missing": (without("lm_head.weight"), "missing from the checkpoint: lm_head.weight"),
    "another architecture": (lambda w: {f"h.{name}": w[name] for name in w}, r"missing.* more \(12 in all\)"),
    "nothing": (lambda w: {}, r"missing.* more \(12 in all\)"),
    "another shape": (lambda w: w | {UP: torch.ones(8, 64)}, rf"{UP} \(stored \[8, 64\], needed \[96, 64\]\)"),
    "a bias the config does not know": (lambda w: w | {Q_BIAS: torch.ones(64)}, f"a llama lacks: {Q_BIAS}"),
    "norms the config does not know": (lambda w: w | {Q_NORM: torch.ones(16)}, f"a llama lacks: {Q_NORM}"),
    "an adapter": (lambda w: w | {LORA_A: torch.ones(4, 64)}, f"a llama lacks: {LORA_A}"),
    "a further layer": (lambda w: w | {LAYER_1: torch.ones(64)}, f"a llama lacks: {LAYER_1}"),
    "one without the prefix": (lambda w: w | {Q_NORM[6:]: torch.ones(16)}, f"a llama lacks: {Q_NORM[6:]}"),
    "int8": (lambda w: w | {UP: torch.ones(96, 64, dtype=torch.int8)}, rf"needs a scale.*{UP} \(I8\)"),
    "float8": (lambda w: w | {UP: torch.ones(96, 64).to(torch.float8_e4m3fn)}, rf"needs a scale.*{UP} \(F8_E4M3\)"),
}


def damage(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


@pytest.mark.parametrize(("change", "message"), DAMAGES.values(), ids=DAMAGES)
def test_weights_that_are_not_the_models_are_refused_by_name(folder, change, message):
    damage(folder, change)
    assert_refused(folder, f"{folder / 'model.safetensors'}.*{message}")


HARMLESS = {
    "without the prefix": lambda w: {name.removeprefix("model."): w[name] for name in w},
    "a head for training": lambda w: w | {"v_head.bias": torch.ones(1)},
    "a tower for images": lambda w: w | {"model.visual.blocks.0.norm.weight": torch.ones(3)},
    "layers that guess further tokens": lambda w: w | {"mtp.layers.0.norm.weight": torch.ones(3)},
    "a mask of old checkpoints": lambda w: w | {"model.layers.0.attn.masked_bias": torch.tensor(-1e4)},
    "angles of old checkpoints": lambda w: w | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)},
    "half as wide": lambda w: {name: w[name].half() for name in w},
}  # fmt: skip


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_nothing_is_let_through(folder, change):
    damage(folder, change)
    load(folder)


def test_weights_of_another_family_are_refused(tmp_path):
    tiny_model("qwen3").save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert_refused(tmp_path, "a llama lacks: model.layers.0.self_attn.k_norm.weight")


def test_layers_that_guess_further_tokens_may_be_counted_in_the_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    damage(folder, lambda weights: weights | {LAYER_1: torch.ones(64)})
    load(folder)
    damage(folder, lambda weights: weights | {LAYER_1.replace("1", "2", 1): torch.ones(64)})
    assert_refused(folder, "a llama lacks: model.layers.2.input_layernorm.weight")


def test_experts_that_need_a_scale_are_refused_although_the_model_joins_them(tmp_path):
    tiny_model("qwen3-moe").save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    name = "model.layers.0.mlp.experts.0.up_proj.weight"
    damage(tmp_path, lambda weights: weights | {key: weights[key].to(torch.int8) for key in weights if key == name})
    assert_refused(tmp_path, rf"needs a scale.*{name} \(I8\)")


def test_what_lies_beside_a_stack_of_layers_that_is_deeper_in_the_model_is_let_through(tmp_path):
    tiny_model("opt").save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    damage(tmp_path, lambda weights: weights | {"model.decoder.version": torch.ones(1)})
    load(tmp_path)
    inside = "model.decoder.layers.0.self_attn.q_norm.weight"
    damage(tmp_path, lambda weights: weights | {inside: torch.ones(16)})
    assert_refused(tmp_path, f"a opt lacks: {inside}")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_every_family_loads_whole_with_tied_weights_and_without(tmp_path, family, tied):
    saved = tiny_model(family, tie_word_embeddings=tied)
    saved.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    loaded, _ = load(tmp_path)
    for name, weight in saved.named_parameters():
        assert torch.equal(weight, loaded.get_parameter(name)), name


WAYS = {
    "LLM": lambda name: LLM(name),
    "from_engine_config": lambda name: LLM.from_engine_config(EngineConfig(ModelConfig(name))),
    "LLMEngine": lambda name: LLMEngine(EngineConfig(ModelConfig(name))),
    "ModelLoader": lambda name: ModelLoader(ModelConfig(name)).load_model_and_tokenizer("cpu"),
    "get_model_and_tokenizer": lambda name: get_model_and_tokenizer(ModelConfig(name)),
}


def num_models() -> int:
    gc.collect()
    return sum(issubclass(type(each), PreTrainedModel) for each in gc.get_objects())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_in_refuses_and_keeps_no_model(folder, way):
    damage(folder, without(UP))
    before = num_models()
    with pytest.raises(ValueError, match=f"missing from the checkpoint: {UP}"):
        way(str(folder))
    assert num_models() == before


def test_a_hub_name_is_named_with_the_file_in_the_cache(whole, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--course--tiny"
    snapshot = shutil.copytree(whole, repository / "snapshots" / ("1" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1" * 40)
    LLM("course/tiny", swap_space=0)
    (snapshot / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=f"'course/tiny'.*{snapshot / 'generation_config.json'} is broken"):
        LLM("course/tiny")
    shutil.copy(whole / "generation_config.json", snapshot)
    damage(snapshot, without(UP))
    with pytest.raises(ValueError, match=f"'course/tiny'.*missing from the checkpoint: {UP}"):
        LLM("course/tiny")


@pytest.mark.parametrize("setting", ["revision", "tokenizer_revision"])
def test_a_folder_has_no_revision(folder, setting):
    with pytest.raises(ValueError, match="is on this disk and has no revision, got 'v1'"):
        LLM(str(folder), **{setting: "v1"})


def test_running_out_of_memory_is_not_blamed_on_the_file(folder, monkeypatch):
    def full(*given: object, **options: object) -> None:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr("folovllm.model_loader.check_weights", full)
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        load(folder)
