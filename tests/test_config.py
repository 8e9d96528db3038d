"""Configs: defaults, what is refused, and how open points are decided."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from folovllm import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from folovllm.config import BUNDLED_MODEL
from folovllm.models.defaults import resolve_dtype, resolve_max_model_len

NAN, INF = math.nan, math.inf
BAD = [
    *[(ModelConfig, "model", value) for value in ("", "  ", 5, ["a"], b"x")],
    *[(ModelConfig, "tokenizer", value) for value in ("", 5)],
    *[(ModelConfig, "dtype", value) for value in ("fp16", "float64", None, torch.float16, 16, "AUTO")],
    *[(ModelConfig, "max_model_len", value) for value in (0, -1, 1.5, True, "2048", INF)],
    *[(ModelConfig, "trust_remote_code", value) for value in (1, "yes", None)],
    *[(ModelConfig, "seed", value) for value in (-1, 1.5, True, None, 2**63)],
    *[(ModelConfig, "max_logprobs", value) for value in (-2, 1.5, True, None)],
    *[(ModelConfig, "model_impl", value) for value in ("vllm", "hf", None, 1)],
    *[(ModelConfig, "enforce_eager", value) for value in (1, "yes", None)],
    *[(ModelConfig, "revision", value) for value in ("", 5)],
    *[(ModelConfig, "tokenizer_revision", value) for value in ("", 5)],
    *[(ModelConfig, "hf_overrides", value) for value in (5, "a=1", ["a"], {1: 2})],
    *[(CacheConfig, "block_size", value) for value in (0, -16, 16.0, True, "16", None)],
    *[(CacheConfig, "gpu_memory_utilization", value) for value in (0, -0.1, 1.1, NAN, INF, True, "0.9")],
    *[(CacheConfig, "swap_space", value) for value in (-1, NAN, INF, "4", None, True, np.bool_(True), 10**400)],
    *[(CacheConfig, "enable_prefix_caching", value) for value in (1, None, "on")],
    *[(CacheConfig, "num_gpu_blocks_override", value) for value in (0, -1, 1.5, True)],
    *[(CacheConfig, "kv_cache_memory_bytes", value) for value in (0, -1, 1e9, True)],
    *[(SchedulerConfig, "max_num_batched_tokens", value) for value in (0, -1, 1.5, True, "2048")],
    *[(SchedulerConfig, "max_num_seqs", value) for value in (0, -1, 1.5, True, None)],
    *[(SchedulerConfig, "enable_chunked_prefill", value) for value in (0, None)],
    *[(SchedulerConfig, "num_speculative_tokens", value) for value in (-1, 1.5, True, None)],
    *[(SchedulerConfig, "prompt_lookup_max", value) for value in (0, 1.5, True)],
    *[(EngineConfig, "model_config", value) for value in (None, {}, "model")],
    *[(EngineConfig, "cache_config", value) for value in (None, {})],
    *[(EngineConfig, "scheduler_config", value) for value in (None, {})],
    *[(EngineConfig, "device", value) for value in ("gpu", "cuda:", "cuda:-1", "tpu", 0, None)],
    *[(EngineConfig, "device", value) for value in ("cuda:00", "cuda:٣", "cuda:256", "cuda:0\n", "CPU")],
    *[(EngineConfig, "sampling_order", value) for value in ("hf", None, 1)],
    *[(EngineConfig, "record_history", value) for value in (1, None)],
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD, ids=lambda value: repr(value)[:24])
def test_a_wrong_value_is_refused_with_class_field_value_and_what_is_allowed(kind, name, value):
    with pytest.raises(ValueError, match=rf"^{kind.__name__}\.{name} must be") as caught:
        kind(**{name: value})
    assert repr(value) in str(caught.value)


def test_the_table_of_wrong_values_is_long_enough_and_covers_every_field():
    assert len(BAD) >= 60
    for kind in (ModelConfig, CacheConfig, SchedulerConfig, EngineConfig):
        knobs = {field.name for field in dataclasses.fields(kind) if field.init}
        assert knobs == {name for each, name, _ in BAD if each is kind}


def test_defaults():
    config = EngineConfig()
    assert config.model_config == ModelConfig(model=BUNDLED_MODEL, tokenizer=None, dtype="auto")
    assert (config.cache_config.block_size, config.cache_config.gpu_memory_utilization) == (16, None)
    assert (config.cache_config.swap_space, config.cache_config.enable_prefix_caching) == (4.0, True)
    assert (config.scheduler_config.max_num_seqs, config.scheduler_config.enable_chunked_prefill) == (256, True)


@pytest.mark.parametrize(
    ("config", "name", "kept"),
    [
        (CacheConfig(gpu_memory_utilization=1), "gpu_memory_utilization", 1.0),
        (CacheConfig(swap_space=0), "swap_space", 0.0),
        (CacheConfig(swap_space=np.float32(0.5)), "swap_space", 0.5),
        (CacheConfig(block_size=np.int64(1)), "block_size", 1),
        (SchedulerConfig(max_num_batched_tokens=256), "max_num_batched_tokens", 256),
        (SchedulerConfig(max_num_batched_tokens=1, max_num_seqs=1), "max_num_seqs", 1),
        (ModelConfig(max_logprobs=-1), "max_logprobs", -1),
        (ModelConfig(max_logprobs=0), "max_logprobs", 0),
        (ModelConfig(seed=2**63 - 1), "seed", 2**63 - 1),
        (ModelConfig(max_model_len=1), "max_model_len", 1),
        (ModelConfig("weights", "words"), "tokenizer", "words"),
        (ModelConfig("weights", "words"), "tokenizer_source", ("words", None)),
        (ModelConfig("weights"), "tokenizer", None),
        (ModelConfig("weights"), "tokenizer_source", ("weights", None)),
        (ModelConfig("a", revision="v1"), "tokenizer_source", ("a", "v1")),
        (ModelConfig("a", "a", revision="v1"), "tokenizer_source", ("a", "v1")),
        (ModelConfig("a", "b", revision="v1"), "tokenizer_source", ("b", None)),
        (ModelConfig("a", revision="v1", tokenizer_revision="v2"), "tokenizer_source", ("a", "v2")),
        (dataclasses.replace(ModelConfig("a", revision="v1"), revision="v2"), "tokenizer_source", ("a", "v2")),
        (dataclasses.replace(ModelConfig("a", revision="v1"), tokenizer="b"), "tokenizer_source", ("b", None)),
        (dataclasses.replace(ModelConfig("old"), model="new"), "tokenizer_source", ("new", None)),
        (dataclasses.replace(ModelConfig("old", "words"), model="new"), "tokenizer_source", ("words", None)),
        (dataclasses.replace(ModelConfig("old", "words"), tokenizer=None), "tokenizer_source", ("old", None)),
        (EngineConfig(device="cuda:12"), "device", "cuda:12"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_allowed_is_kept_in_one_form(config, name, kept):
    assert getattr(config, name) == kept
    assert type(getattr(config, name)) is type(kept)


def test_every_device_that_is_allowed_is_one_to_torch():
    for device in ("cpu", "mps", "cuda", *(f"cuda:{index}" for index in range(100))):
        assert str(torch.device(EngineConfig(device=device).device)) == device


def test_the_environment_names_the_default_model(monkeypatch):
    monkeypatch.setenv("FOLOVLLM_MODEL", "Qwen/Qwen3-0.6B")
    assert ModelConfig().model == ModelConfig().tokenizer_source[0] == "Qwen/Qwen3-0.6B"
    assert ModelConfig("other").model == "other"
    monkeypatch.setenv("FOLOVLLM_MODEL", "")
    assert ModelConfig().model == BUNDLED_MODEL


@pytest.mark.parametrize(
    ("name", "dtype"), [("half", torch.float16), ("bfloat16", torch.bfloat16), ("float", torch.float32)]
)
def test_torch_dtype(name, dtype):
    assert ModelConfig(dtype=name).torch_dtype is dtype
    assert ModelConfig().torch_dtype is None


@pytest.mark.parametrize("kind", [ModelConfig, CacheConfig, SchedulerConfig, EngineConfig])
def test_fields_cannot_be_set(kind):
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(kind(), field.name, 8)


def test_numbers_of_blocks_are_not_knobs():
    with pytest.raises(TypeError, match="num_gpu_blocks"):
        CacheConfig(num_gpu_blocks=5)


def test_the_token_budget_must_hold_every_running_sequence():
    with pytest.raises(ValueError, match=r"max_num_batched_tokens must be at least max_num_seqs=256.*got 100"):
        SchedulerConfig(max_num_batched_tokens=100)


def test_without_chunked_prefill_a_prompt_must_fit_the_budget():
    scheduler = SchedulerConfig(max_num_batched_tokens=512, enable_chunked_prefill=False)
    with pytest.raises(ValueError, match="at least max_model_len=1024"):
        EngineConfig(ModelConfig(max_model_len=1024), scheduler_config=scheduler)
    open_length = EngineConfig(scheduler_config=scheduler)
    with pytest.raises(ValueError, match="at least max_model_len=1024"):
        open_length.resolve(dtype="float32", max_model_len=1024, device="cpu")


@pytest.mark.parametrize(
    ("settings", "budget"),
    [
        ({}, 2048),
        ({"max_num_seqs": 3000}, 3000),
        ({"enable_chunked_prefill": False}, 8192),
        ({"max_num_batched_tokens": 300}, 300),
    ],
    ids=str,
)
def test_an_open_token_budget_is_decided_with_the_model_length(settings, budget):
    assert SchedulerConfig(**settings).resolve(max_model_len=8192).max_num_batched_tokens == budget


def test_resolving_twice_changes_nothing():
    once = EngineConfig().resolve(dtype="float32", max_model_len=512, device="cpu")
    assert (once.model_config.dtype, once.model_config.max_model_len, once.device) == ("float32", 512, "cpu")
    assert once.resolve(dtype="float32", max_model_len=512, device="cpu") == once


def test_resolving_leaves_the_config_open_that_was_given():
    given = EngineConfig()
    once = given.resolve(dtype="float32", max_model_len=512, device="cpu")
    changed = dataclasses.replace(
        given, scheduler_config=dataclasses.replace(given.scheduler_config, max_num_seqs=4096)
    )
    assert changed.resolve(dtype="float32", max_model_len=512, device="cpu").scheduler_config == SchedulerConfig(
        max_num_batched_tokens=4096, max_num_seqs=4096
    )
    sized = once.cache_config.with_num_blocks(7, 3)
    assert dataclasses.replace(sized, block_size=8) == CacheConfig(block_size=8)


def test_print_shows_one_field_a_line_with_nested_configs_indented():
    lines = str(EngineConfig()).splitlines()
    assert lines[0] == "EngineConfig("
    assert "    cache_config=CacheConfig(" in lines
    assert "        block_size=16," in lines
    assert lines[-1] == ")"


# -- dtype -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "stored", "device", "capability", "decided"),
    [
        ("auto", "bfloat16", "cpu", None, "float32"),
        ("auto", "float16", "cpu", None, "float32"),
        ("bfloat16", "float32", "cpu", None, "bfloat16"),
        ("auto", "bfloat16", "cuda", (8, 0), "bfloat16"),
        ("auto", "float16", "cuda", (9, 0), "float16"),
        ("auto", "float32", "cuda", (8, 6), "bfloat16"),
        ("auto", None, "cuda", (8, 0), "bfloat16"),
        ("auto", "bfloat16", "cuda", (7, 5), "float16"),
        ("auto", "float32", "cuda", (7, 0), "float16"),
        ("float32", "bfloat16", "cuda", (7, 0), "float32"),
        ("auto", "bfloat16", "mps", None, "float16"),
        ("auto", "float32", "mps", None, "float16"),
        ("auto", None, "cpu", None, "float32"),
        ("float16", "float32", "cpu", None, "float16"),
        ("auto", "float16", "cuda", (7, 5), "float16"),
        ("auto", "float32", "cuda", (12, 0), "bfloat16"),
    ],
)
def test_dtype_rule(asked, stored, device, capability, decided):
    assert resolve_dtype(asked, stored, "llama", device, capability) == decided


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3", "gemma3_text", "glm4", "plamo2"])
def test_models_that_overflow_in_float16_never_get_it(model_type):
    with pytest.raises(ValueError, match=f"dtype must not be 'float16' for {model_type}"):
        resolve_dtype("float16", "bfloat16", model_type, "cuda", (8, 0))
    assert resolve_dtype("auto", "bfloat16", model_type, "mps") == "float32"
    assert resolve_dtype("auto", "float16", model_type, "cuda", (7, 5)) == "float32"


def test_a_relative_of_a_model_that_overflows_may_have_float16():
    assert resolve_dtype("float16", "bfloat16", "glm4_moe", "cuda", (8, 0)) == "float16"


# -- length ------------------------------------------------------------------------------------------------


def rope(
    kind: str, factor: float, original: int | None = None, length: int = 4096, **more: object
) -> dict[str, object]:
    settings = {"rope_type": kind, "factor": factor} | (
        {"original_max_position_embeddings": original} if original else {}
    )
    return {"max_position_embeddings": length, "rope_parameters": settings, **more}


def by_kind_of_layer(**kinds: object) -> dict[str, object]:
    return {"max_position_embeddings": 1000, "rope_parameters": kinds}


@pytest.mark.parametrize(
    ("hf_config", "tokenizer", "requested", "decided"),
    [
        ({"max_position_embeddings": 8192}, None, None, 8192),
        ({"n_positions": 1024}, None, None, 1024),
        ({"max_position_embeddings": 8192, "max_seq_len": 4096}, None, None, 4096),
        ({"max_position_embeddings": 8192}, 2048, None, 2048),
        ({"max_position_embeddings": 8192}, int(1e30), None, 8192),
        ({"max_position_embeddings": 8192}, None, 100, 100),
        ({"text_config": {"max_position_embeddings": 512}}, None, None, 512),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, None, None, 8192),
        (rope("dynamic", 2.0), None, None, 8192),
        (rope("llama3", 8.0), None, None, 4096),
        (rope("linear", 4.0), None, None, 16384),
        (rope("ntk", 4.0), None, None, 16384),
        (rope("proportional", 2.0), None, None, 8192),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "dynamic", "factor": 2}}, None, None, 4096),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "mrope", "mrope_section": [2]}}, None, None, 2048),
        # YaRN is in the config's length already, as vLLM 0.33 has it ...
        (rope("yarn", 4.0, 1024), None, None, 4096),
        (rope("yarn", 2.0, 1024), None, None, 4096),
        (rope("deepseek_yarn", 40.0, 4096, length=163840), None, None, 163840),
        (rope("telechat3-yarn", 4.0, 8192, length=32768), None, None, 32768),
        # ... unless that falls short of the original length times the factor.
        (rope("yarn", 4.0, 32768, length=40960), None, None, 131072),
        (rope("yarn", 4.0, 32, length=64), None, 128, 128),
        (rope("yarn", 4.0, 64, length=64), None, None, 256),
        (rope("yarn", 4.0, 64, length=64), None, 200, 200),
        (rope("yarn", 4.0, 32768, length=32768), 131072, None, 131072),
        (rope("yarn", 4.0), None, None, 16384),
        ({"text_config": rope("yarn", 4.0, 64, length=64)}, None, None, 256),
        # longrope and su: the short length by default, the config's at most.
        (rope("longrope", 32.0), None, None, 4096),
        (rope("longrope", 32.0, length=131072, original_max_position_embeddings=4096), None, None, 4096),
        (rope("longrope", 32.0, length=131072, original_max_position_embeddings=4096), None, 131072, 131072),
        (rope("su", 32.0, length=131072, original_max_position_embeddings=4096), None, None, 4096),
        # Gemma 3's length is the stretched one, whatever the type.
        (rope("linear", 8.0, model_type="gemma3_text"), None, None, 4096),
        # Command-R: this key is the one that counts.
        ({"max_position_embeddings": 8192, "model_max_length": 131072}, None, None, 131072),
        (by_kind_of_layer(full={"rope_type": "linear", "factor": 8.0}, sliding=None), None, None, 8000),
        (by_kind_of_layer(a={"type": "linear", "factor": 8.0}, b={"type": "linear", "factor": 2.0}), None, None, 2000),
        (by_kind_of_layer(a={"rope_type": "llama3", "factor": 8.0}, b={"rope_type": "default"}), None, None, 1000),
        (
            {
                "max_position_embeddings": 1000,
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                },
            },
            None,
            None,
            8000,
        ),
        ({}, None, 333, 333),
        ({}, 77, None, 77),
        # What is no limit is taken for none.
        ({"max_position_embeddings": -1, "n_positions": 700}, None, None, 700),
        ({"max_position_embeddings": 0, "n_positions": 700}, None, None, 700),
        ({"max_position_embeddings": True, "n_positions": 700}, None, None, 700),
        ({"max_position_embeddings": None, "n_positions": 700}, None, None, 700),
        ({"n_positions": 700, "model_max_length": int(1e30)}, None, None, 700),
        ({"n_positions": 700.0}, None, None, 700),
        ({"n_positions": 700}, 0, None, 700),
        ({"n_positions": 700}, math.inf, None, 700),
        ({"n_positions": 700}, math.nan, None, 700),
        ({"n_positions": 700, "text_config": None}, None, None, 700),
        # Half-filled rope settings.
        ({"n_positions": 700, "rope_scaling": {"type": "linear", "factor": None}}, None, None, 700),
        ({"n_positions": 700, "rope_scaling": {"rope_type": None, "type": "yarn", "factor": 4.0}}, None, None, 700),
        ({"n_positions": 700, "rope_parameters": None, "rope_scaling": None}, None, None, 700),
        # The tokenizer's limit is one of the lengths before stretching: it was written for those.
        (rope("linear", 2.0), 4096, None, 8192),
        (rope("linear", 2.0), 1000, None, 2000),
        # ... and YaRN reaches as far as its own entries say.
        (rope("yarn", 4.0, 1024), 2000, None, 4096),
        (rope("yarn", 4.0, 64, length=64), 64, None, 256),
        (rope("yarn", 4.0, 64, length=100), 64, None, 256),
        (rope("yarn", 4.0, 64, length=256), 64, None, 256),
        (rope("yarn", 4.0, 64, length=1000), None, None, 1000),
        (rope("linear", 2.0), None, 8192, 8192),
        ({"text_config": rope("linear", 2.0)}, None, None, 8192),
    ],
    ids=str,
)
def test_length_rule(hf_config, tokenizer, requested, decided):
    assert resolve_max_model_len(hf_config, tokenizer, requested) == decided


def test_a_length_above_the_models_is_refused():
    with pytest.raises(ValueError, match=r"max_model_len must be at most 1024.*got 1025"):
        resolve_max_model_len({"n_positions": 1024}, None, 1025)


def test_more_than_a_length_that_yarn_is_counted_in_is_refused():
    with pytest.raises(ValueError, match=r"max_model_len must be at most 32768.*got 65536"):
        resolve_max_model_len(rope("yarn", 4.0, 8192, length=32768), None, 65536)


@pytest.mark.parametrize("factor", ["four", [4], -1.0, 0, math.nan, True])
def test_a_rope_factor_that_is_no_number_above_0_is_named(factor):
    with pytest.raises(ValueError, match="the config's rope factor must be a finite number > 0"):
        resolve_max_model_len(rope("linear", factor))


def test_no_length_at_all_is_2048_with_a_warning():
    with pytest.warns(UserWarning, match="max_model_len is set to 2048"):
        assert resolve_max_model_len({}) == 2048


# -- anything ------------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=2),
    st.builds(object), st.complex_numbers(),
)  # fmt: skip


@given(st.sampled_from([ModelConfig, CacheConfig, SchedulerConfig, EngineConfig]), st.data())
def test_whatever_is_given_it_is_taken_or_refused_with_a_value_error(kind, data):
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    junk = data.draw(st.dictionaries(st.sampled_from(names), JUNK, max_size=3))
    try:
        config = kind(**junk)
    except ValueError:
        return
    assert dataclasses.replace(config) == config


def test_importing_configs_and_params_does_not_import_torch():
    code = (
        "import sys; from folovllm import SamplingParams, EngineConfig, Request; SamplingParams(); EngineConfig(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
