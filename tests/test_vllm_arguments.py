"""``to_vllm``: names, types and defaults against a description of vLLM 0.33, and against vLLM where it is installed.

``data/vllm_0_33_signatures.json`` was made by ``scripts/describe_vllm.py`` from vLLM's wheel.
"""

import argparse
import collections.abc
import dataclasses
import json
import types
import typing
import warnings
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from folovllm import (
    CacheConfig,
    EngineConfig,
    ModelConfig,
    SamplingParams,
    SchedulerConfig,
    StructuredOutputsParams,
)

VLLM = json.loads((Path(__file__).parent / "data" / "vllm_0_33_signatures.json").read_text())
LLM_TAKES = VLLM["EngineArgs"] | VLLM["LLM"]  # what LLM does not name, it passes on to EngineArgs
MODEL = ModelConfig(model="some/model")
PLAIN = EngineConfig(MODEL)

CONFIGS = {
    "model": EngineConfig(replace(MODEL, model="other/model", tokenizer="some/model")),
    "tokenizer": EngineConfig(replace(MODEL, tokenizer="other/tokenizer")),
    "dtype": EngineConfig(replace(MODEL, dtype="bfloat16")),
    "max_model_len": EngineConfig(replace(MODEL, max_model_len=512)),
    "trust_remote_code": EngineConfig(replace(MODEL, trust_remote_code=True)),
    "seed": EngineConfig(replace(MODEL, seed=7)),
    "max_logprobs": EngineConfig(replace(MODEL, max_logprobs=-1)),
    "model_impl": EngineConfig(replace(MODEL, model_impl="folovllm")),
    "enforce_eager": EngineConfig(replace(MODEL, enforce_eager=True)),
    "revision": EngineConfig(replace(MODEL, revision="v1.0")),
    "tokenizer_revision": EngineConfig(replace(MODEL, tokenizer_revision="v2.0")),
    "hf_overrides": EngineConfig(replace(MODEL, hf_overrides={"sliding_window": 64})),
    "block_size": EngineConfig(MODEL, CacheConfig(block_size=32)),
    "gpu_memory_utilization": EngineConfig(MODEL, CacheConfig(gpu_memory_utilization=0.5)),
    "swap_space": EngineConfig(MODEL, CacheConfig(swap_space=1)),
    "enable_prefix_caching": EngineConfig(MODEL, CacheConfig(enable_prefix_caching=False)),
    "num_gpu_blocks_override": EngineConfig(MODEL, CacheConfig(num_gpu_blocks_override=99)),
    "kv_cache_memory_bytes": EngineConfig(MODEL, CacheConfig(kv_cache_memory_bytes=2**30)),
    "max_num_batched_tokens": EngineConfig(MODEL, scheduler_config=SchedulerConfig(max_num_batched_tokens=4096)),
    "max_num_seqs": EngineConfig(MODEL, scheduler_config=SchedulerConfig(max_num_seqs=8)),
    "enable_chunked_prefill": EngineConfig(MODEL, scheduler_config=SchedulerConfig(enable_chunked_prefill=False)),
    "num_speculative_tokens": EngineConfig(MODEL, scheduler_config=SchedulerConfig(num_speculative_tokens=4)),
    "prompt_lookup_max": EngineConfig(MODEL, scheduler_config=SchedulerConfig(prompt_lookup_max=5)),
    "device": EngineConfig(MODEL, device="cuda:1"),
    "record_history": EngineConfig(MODEL, record_history=True),
    "sampling_order": EngineConfig(MODEL, sampling_order="vllm"),
}
"""For each field of the configs, one in which it differs from the default."""


def keep(output_token_ids, logits):
    return logits


PARAMS = {
    "n": 3,
    "best_of": 3,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.2,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "seed": 5,
    "stop": ["end"],
    "stop_token_ids": [7, 8],
    "bad_words": ["word"],
    "ignore_eos": True,
    "max_tokens": 99,
    "min_tokens": 3,
    "logprobs": 2,
    "prompt_logprobs": -1,
    "detokenize": False,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": True,
    "logit_bias": {3: 1.5},
    "allowed_token_ids": [3, 4],
    "logits_processors": [keep],
    "structured_outputs": StructuredOutputsParams(choice=["a", "b"]),
}
"""For each field of SamplingParams, another value than the default."""
REFUSED = {
    "best_of": r"^best_of must be n=2 for vLLM.* got 5; ask for n=5 and logprobs=0",
    "logits_processors": r"^logits_processors must be None for vLLM, whose LLM.* AdapterLogitsProcessor .* got ",
    "structured_outputs": r"^structured_outputs must be None .*StructuredOutputsParams\(choice=\['a', 'b'\]\) beside",
}
"""Fields that cannot be handed to vLLM's class, and what the refusal says."""


@dataclass(frozen=True)
class EpsilonParams(SamplingParams):
    epsilon: float = 0.0


def fits(value, hint) -> bool:
    """Say whether a value is of an annotated type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is typing.Annotated:
        return fits(value, parts[0])
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is collections.abc.Callable:
        return callable(value)
    return hint is typing.Any or type(value) is hint


def assert_is_taken(arguments: dict, description: dict) -> None:
    """Assert that every argument exists in vLLM and has a value of its type, and that none is missing."""

    def note(**metadata):
        return "what pydantic adds to a type"

    # A request is JSON: what is an object of a class to vLLM is a dict there.
    vllm = SimpleNamespace(sampling_params=SimpleNamespace(StructuredOutputsParams=dict))
    names = {"typing": typing, "collections": collections, "NoneType": type(None), "FieldInfo": note, "MaxLen": note}
    names["vllm"] = vllm
    for name, value in arguments.items():
        assert name in description
        assert fits(value, eval(description[name]["type"], names)), f"{name}={value!r}: {description[name]['type']}"
    assert {name for name, each in description.items() if "default" not in each} <= {*arguments, "messages"}


def quietly(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def test_the_description_is_of_the_version_that_the_docstrings_name():
    assert VLLM["source"]["version"] == "0.33.0"
    assert "vLLM 0.33's" in EngineConfig.to_vllm.__doc__
    assert "vLLM 0.33's" in SamplingParams.to_vllm.__doc__


def test_the_tables_of_this_file_name_every_field():
    every = [field for kind in (ModelConfig, CacheConfig, SchedulerConfig, EngineConfig) for field in fields(kind)]
    assert sorted(CONFIGS) == sorted(name for name in every if not name.endswith("_config"))
    assert sorted(PARAMS) == sorted(fields(SamplingParams))


def fields(kind) -> list[str]:
    return [field.name for field in dataclasses.fields(kind) if field.init]


# -- EngineConfig ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [PLAIN, *CONFIGS.values()], ids=["plain", *CONFIGS])
def test_llm_takes_every_argument(config):
    arguments = quietly(config.to_vllm)
    assert_is_taken(arguments, LLM_TAKES)
    if "speculative_config" in arguments:
        assert_is_taken(arguments["speculative_config"], VLLM["SpeculativeConfig"])


def test_a_function_that_changes_the_config_goes_to_llm_and_not_onto_a_command_line():
    config = EngineConfig(replace(MODEL, hf_overrides=lambda hf_config: hf_config))
    assert_is_taken(quietly(config.to_vllm), LLM_TAKES)
    with pytest.raises(ValueError, match="hf_overrides must be a dict to be written as a flag"):
        config.to_vllm_server()


def test_the_models_revision_does_not_become_that_of_another_tokenizer():
    """As it would in vLLM, which takes it where no tokenizer_revision is given."""
    other = EngineConfig(ModelConfig("some/model", "other/tokenizer", revision="v1")).to_vllm()
    assert (other["revision"], other["tokenizer_revision"]) == ("v1", "main")
    same = EngineConfig(ModelConfig("some/model", revision="v1")).to_vllm()
    assert (same["revision"], same["tokenizer_revision"]) == ("v1", "v1")


def test_a_gguf_file_comes_with_the_plugin_that_vllm_needs():
    with pytest.warns(UserWarning, match="vllm-gguf-plugin"):
        EngineConfig(ModelConfig("some/model.gguf")).to_vllm()


LOST = {"swap_space", "record_history"}
NO_DIFFERENCE = {"prompt_lookup_max", "sampling_order"}
"""The first matters only beside num_speculative_tokens; the second's other value is what vLLM always does."""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_is_passed_on_or_warned_about(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arguments = CONFIGS[name].to_vllm()
    assert (arguments != PLAIN.to_vllm()) == (name not in LOST | NO_DIFFERENCE)
    assert [str(each.message).partition("=")[0] for each in caught] == [
        f"vLLM has no counterpart to {lost}" for lost in LOST & {name}
    ]
    assert all(each.filename == __file__ for each in caught)


def test_what_is_said_to_be_lost_is_nowhere_in_vllm():
    for name in ("swap_space", "best_of", "sampling_order", "record_history", "device"):
        assert not any(name in VLLM[part] for part in VLLM)


def test_values_arrive_unchanged():
    config = EngineConfig(
        ModelConfig("some/model", "a/tokenizer", "half", 512, seed=3, max_logprobs=5, model_impl="folovllm"),
        CacheConfig(block_size=32, gpu_memory_utilization=0.4, num_gpu_blocks_override=9, kv_cache_memory_bytes=1000),
        SchedulerConfig(512, 16, enable_chunked_prefill=False, num_speculative_tokens=4, prompt_lookup_max=2),
    )
    assert config.to_vllm() == {
        "model": "some/model",
        "tokenizer": "a/tokenizer",
        "dtype": "float16",
        "max_model_len": 512,
        "trust_remote_code": False,
        "seed": 3,
        "max_logprobs": 5,
        "model_impl": "vllm",
        "enforce_eager": False,
        "block_size": 32,
        "gpu_memory_utilization": 0.4,
        "enable_prefix_caching": True,
        "num_gpu_blocks_override": 9,
        "kv_cache_memory_bytes": 1000,
        "max_num_batched_tokens": 512,
        "max_num_seqs": 16,
        "enable_chunked_prefill": False,
        "generation_config": "vllm",
        "speculative_config": {
            "method": "ngram",
            "num_speculative_tokens": 4,
            "prompt_lookup_max": 2,
            "prompt_lookup_min": 1,
        },
    }


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EngineConfig(), "model='SmolLM2-135M-Instruct': HuggingFaceTB/SmolLM2-135M-Instruct is passed"),
        (EngineConfig(MODEL, CacheConfig(swap_space=0)), "swap_space=0: vLLM recomputes"),
        (EngineConfig(MODEL, CacheConfig(block_size=24)), "block_size=24: vLLM takes multiples of 16"),
        (EngineConfig(MODEL, device="cpu"), "device='cpu': vLLM runs on what its build is for"),
        (EngineConfig(MODEL, device="mps", record_history=True), "device='mps': .*; record_history=True"),
    ],
    ids=str,
)
def test_what_vllm_does_not_have_is_named_with_its_value(config, message):
    with pytest.warns(UserWarning, match=f"^vLLM has no counterpart to {message}"):
        arguments = config.to_vllm()
    assert not {"swap_space", "block_size", "device", "record_history"} & set(arguments) - {"block_size"}
    assert arguments.get("block_size", 16) == 16


def test_a_gpu_is_chosen_by_its_number():
    assert [EngineConfig(MODEL, device=name).to_vllm().get("device_ids") for name in ("auto", "cuda", "cuda:3")] == [
        None,
        None,
        [3],
    ]


def test_the_bundled_model_gets_its_name_on_the_hub():
    arguments = quietly(EngineConfig().to_vllm)
    assert arguments["model"] == arguments["tokenizer"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


# -- the server --------------------------------------------------------------------------------------------


def parse_like_vllm(flags: list[str]) -> dict:
    """Parse arguments of ``vllm serve`` by its described flags, with values of the described types."""
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, allow_abbrev=False)
    parser.add_argument("model")
    for flag, each in VLLM["serve"].items():
        if "off" in each:
            parser.add_argument(flag, dest=each["dest"], action="store_true")
            parser.add_argument(each["off"], dest=each["dest"], action="store_false")
        elif flag != "--model":
            parser.add_argument(flag, dest=each["dest"])
    parsed = vars(parser.parse_args(flags))
    for name, text in parsed.items():
        kind = LLM_TAKES[name]["type"].partition(" ")[0].partition("[")[0]
        convert = {
            "int": int,
            "float": float,
            "dict": json.loads,
            "list": lambda ids: [int(each) for each in ids.split(",")],
        }
        parsed[name] = convert.get(kind, lambda value: value)(text)
    return parsed


@pytest.mark.parametrize("config", [PLAIN, *CONFIGS.values()], ids=["plain", *CONFIGS])
def test_the_server_is_told_what_llm_is_told(config):
    flags = quietly(config.to_vllm_server)
    assert flags[0] == config.model_config.model
    assert parse_like_vllm(flags) == quietly(config.to_vllm)


def test_the_server_warns_as_llm_does():
    with pytest.warns(UserWarning, match="swap_space=1") as caught:
        CONFIGS["swap_space"].to_vllm_server()
    assert caught[0].filename == __file__


# -- SamplingParams ------------------------------------------------------------------------------------------


def test_the_defaults_are_vllms_own():
    arguments = SamplingParams().to_vllm()
    theirs = {name: VLLM["SamplingParams"][name]["default"] for name in arguments}
    empty = {name: [] for name in ("stop", "stop_token_ids", "bad_words")}  # made of None when vLLM builds its object
    assert arguments == theirs | empty
    assert all(theirs[name] is None for name in empty)


@pytest.mark.parametrize("name", [name for name in PARAMS if name not in REFUSED])
def test_every_sampling_parameter_arrives_under_its_name(name):
    arguments = SamplingParams(**{name: PARAMS[name]}).to_vllm()
    assert arguments == SamplingParams().to_vllm() | {name: PARAMS[name]}
    assert type(arguments[name]) is type(PARAMS[name])
    assert_is_taken(arguments, VLLM["SamplingParams"])


def test_nothing_is_shared_with_the_parameters():
    params = SamplingParams(stop=["a"], logit_bias={1: 1.0})
    arguments = params.to_vllm()
    arguments["stop"].append("b")
    arguments["logit_bias"][2] = 2.0
    assert params == SamplingParams(stop=["a"], logit_bias={1: 1.0})


@pytest.mark.parametrize("function", [SamplingParams.to_vllm, SamplingParams.to_openai])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_passed_on_is_refused_with_a_way_out(function, name):
    params = SamplingParams(**({"n": 2, "best_of": 5} if name == "best_of" else {name: PARAMS[name]}))
    if (function, name) == (SamplingParams.to_openai, "structured_outputs"):
        assert function(params)[name] == {"choice": ["a", "b"]}
    else:
        with pytest.raises(ValueError, match=REFUSED[name]):
            function(params)


def test_what_has_its_default_is_not_refused():
    assert SamplingParams(n=2, best_of=2).to_vllm() == SamplingParams(n=2).to_vllm()
    assert SamplingParams(temperature=0, top_k=3, min_p=0.1).to_vllm()["top_k"] == 3


@pytest.mark.parametrize("others", [{"top_k": 5}, {"top_p": 0.9}])
@pytest.mark.parametrize("function", [SamplingParams.to_vllm, SamplingParams.to_openai])
def test_min_p_beside_another_filter_is_warned_about(function, others):
    with pytest.warns(UserWarning, match=r"min_p=0\.1 after top_k and top_p: vLLM applies it first") as caught:
        function(SamplingParams(min_p=0.1, **others))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(SamplingParams(min_p=0.1))
        function(SamplingParams(**others))
    assert len(caught) == 1


@pytest.mark.parametrize("function", [SamplingParams.to_vllm, SamplingParams.to_openai])
def test_a_field_of_a_subclass_is_named_since_nobody_reads_it_by_itself(function):
    with pytest.warns(UserWarning, match=r"epsilon: passed in extra_args, where only a logits processor of") as caught:
        function(EpsilonParams(epsilon=0.02, min_p=0.1, top_k=5))
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("ignore:vLLM has no counterpart to epsilon:UserWarning")
def test_fields_of_a_subclass_are_extra_arguments():
    params = EpsilonParams(epsilon=0.02, n=2)
    assert params.to_vllm() == SamplingParams(n=2).to_vllm() | {"extra_args": {"epsilon": 0.02}}
    assert params.to_openai()["vllm_xargs"] == {"epsilon": 0.02}
    assert_is_taken(params.to_vllm(), VLLM["SamplingParams"])
    assert_is_taken(params.to_openai(), VLLM["CompletionRequest"])


# -- requests to the server ------------------------------------------------------------------------------------

ENDPOINTS = {False: "CompletionRequest", True: "ChatCompletionRequest"}


@pytest.mark.parametrize("chat", ENDPOINTS)
@pytest.mark.parametrize("name", [name for name in PARAMS if name not in ("best_of", "logits_processors")])
def test_every_sampling_parameter_is_a_field_of_a_request(name, chat):
    params = SamplingParams(**{name: PARAMS[name]})
    body = json.loads(json.dumps(quietly(params.to_openai, chat)))
    assert_is_taken(body, VLLM[ENDPOINTS[chat]])
    assert (body != SamplingParams().to_openai(chat)) == (name != "detokenize")


@pytest.mark.parametrize("chat", ENDPOINTS)
def test_no_field_that_a_server_could_fill_is_left_out(chat):
    body = SamplingParams().to_openai(chat)
    takes = VLLM[ENDPOINTS[chat]]
    left_open = {name for name in takes if name in VLLM["SamplingParams"] and name not in body}
    ours = {name for name in left_open if name in PARAMS}
    assert ours == {"seed", "prompt_logprobs", "logit_bias", "allowed_token_ids", "structured_outputs"} | (
        {"logprobs"} if not chat else {"logprobs", "max_tokens"}
    )
    # None is what vLLM takes for these when they are missing: no default of the server's own replaces it.
    assert all(takes[name]["default"] in (None, False) for name in ours)


def test_chat_has_its_own_words_for_length_and_logprobs():
    params = SamplingParams(max_tokens=9, logprobs=2)
    completion, chat = params.to_openai(), params.to_openai(chat=True)
    assert (completion["max_tokens"], completion["logprobs"]) == (9, 2)
    assert (chat["max_completion_tokens"], chat["logprobs"], chat["top_logprobs"]) == (9, True, 2)
    assert "max_tokens" not in chat
    assert SamplingParams(logprobs=0).to_openai()["logprobs"] == 0
    assert SamplingParams(logprobs=0).to_openai(chat=True)["top_logprobs"] == 0


def test_keys_of_json_are_strings():
    assert SamplingParams(logit_bias={3: 1.0}).to_openai()["logit_bias"] == {"3": 1.0}


def test_an_open_length_is_refused_where_it_would_mean_16():
    params = SamplingParams(max_tokens=None)
    with pytest.raises(ValueError, match=r"max_tokens must be a number in a completion request.* got None"):
        params.to_openai()
    assert VLLM["CompletionRequest"]["max_tokens"]["default"] == 16
    assert not {"max_tokens", "max_completion_tokens"} & set(params.to_openai(chat=True))


def test_a_server_cannot_leave_the_text_out():
    with pytest.warns(UserWarning, match="detokenize=False: a server always answers with text") as caught:
        body = SamplingParams(detokenize=False).to_openai()
    assert "detokenize" not in body
    assert caught[0].filename == __file__


# -- vLLM itself, where it is installed: a module that moved is a failure then, no skip ------------------


def test_vllm_builds_the_same_parameters_from_a_request_as_from_arguments():
    pytest.importorskip("vllm")
    vllm = import_module("vllm.sampling_params")
    completion = import_module("vllm.entrypoints.openai.completion.protocol").CompletionRequest
    chat = import_module("vllm.entrypoints.openai.chat_completion.protocol").ChatCompletionRequest
    messages = [{"role": "user", "content": "Hello"}]
    for name, value in PARAMS.items():
        if name in REFUSED or name == "detokenize":
            continue
        params = SamplingParams(**{name: value})
        direct = vllm.SamplingParams(**params.to_vllm())
        assert getattr(direct, name) == value
        asked = [completion(prompt="Hello", **params.to_openai()), chat(messages=messages, **params.to_openai(True))]
        for each in asked:
            served = each.to_sampling_params(max_tokens=params.max_tokens, default_sampling_params={"temperature": 0.1})
            assert {field: getattr(served, field) for field in params.to_vllm()} == {
                field: getattr(direct, field) for field in params.to_vllm()
            }


def test_vllm_parses_the_servers_arguments_into_those_of_llm(monkeypatch):
    # Offline, vLLM looks for the folder of a model as soon as it reads its name.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # Older versions turn a setting off by --no-enable-..., not by --disable-...
    pytest.importorskip("vllm", minversion="0.33")
    engine_args = import_module("vllm.engine.arg_utils").EngineArgs
    make_arg_parser = import_module("vllm.entrypoints.common.cli_args").make_arg_parser
    parser = make_arg_parser(import_module("vllm.utils.argparse_utils").FlexibleArgumentParser())
    for config in (PLAIN, *CONFIGS.values()):
        arguments = quietly(config.to_vllm)
        direct = engine_args(**arguments)
        parsed = parser.parse_args(quietly(config.to_vllm_server))
        parsed.model = parsed.model_tag
        served = engine_args.from_cli_args(parsed)
        assert {name: getattr(direct, name) for name in arguments} == arguments
        assert {name: getattr(served, name) for name in arguments} == arguments
