"""Whatever a user passes that is wrong: one ValueError that names it, and the engine goes on as if nothing had been."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from folovllm import LLM, BeamSearchParams, CacheConfig, EngineConfig, ModelConfig, SamplingParams
from folovllm.model_loader import resolve_device
from tests.engine_checks import assert_at_rest
from tests.tiny_models import EOS_TOKEN_ID, hf_greedy, tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

GOOD = {"prompt_token_ids": [5, 6, 7]}
USER = {"role": "user", "content": "hello"}
RAISING_TEMPLATE = "{{ raise_exception('roles must alternate') }}"


def ids(*token_ids: object) -> dict[str, object]:
    return {"prompt_token_ids": list(token_ids)}


def generate(prompts: object, params: object = None) -> Callable[[LLM], object]:
    return lambda llm: llm.generate(prompts, params, use_tqdm=False)


def sampling(**params: Any) -> Callable[[LLM], object]:
    return lambda llm: llm.generate(GOOD, SamplingParams(**params), use_tqdm=False)


def chat(messages: object, **options: Any) -> Callable[[LLM], object]:
    return lambda llm: llm.chat(messages, use_tqdm=False, **options)


def call(arguments: str) -> dict[str, object]:
    return {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": arguments}}]}


def beams(params: object) -> Callable[[LLM], object]:
    return lambda llm: llm.beam_search(GOOD, params, use_tqdm=False)


def stream(prompt: object, params: object = None) -> Callable[[LLM], object]:
    return lambda llm: list(llm.stream(prompt, params))


def add(request_id: object, prompt: object = GOOD, params: object = None) -> Callable[[LLM], object]:
    return lambda llm: llm.llm_engine.add_request(request_id, prompt, params or SamplingParams())


def chat_without(template: str | None) -> Callable[[LLM], object]:
    def call(llm: LLM) -> None:
        tokenizer = llm.get_tokenizer()
        kept, tokenizer.chat_template = tokenizer.chat_template, template
        try:
            llm.chat([USER], use_tqdm=False)
        finally:
            tokenizer.chat_template = kept

    return call


def duplicate(llm: LLM) -> None:
    llm.llm_engine.add_request("twin", GOOD, SamplingParams())
    try:
        llm.llm_engine.add_request("twin", GOOD, SamplingParams())
    finally:
        llm.llm_engine.abort_request("twin")


# What is done, and a pattern of what the message says: the field, then the value or what is allowed.
TO_A_LIVE_ENGINE: dict[str, tuple[Callable[[LLM], object], str]] = {
    # prompts
    "empty text": (generate(""), "prompt.*at least one token"),
    "empty ids": (generate(ids()), "prompt.*at least one token"),
    "empty among good ones": (generate([GOOD, "", GOOD]), "prompt.*at least one token"),
    "too long": (generate(ids(*[5] * 64)), "prompt has 64 tokens.*max_model_len=64"),
    "much too long text": (generate("hello " * 5000), "prompt has .*max_model_len=64"),
    "id beyond the vocabulary": (generate(ids(5, 320)), "prompt_token_ids.*0 to 319, got 320"),
    "huge id": (generate(ids(2**80)), f"prompt_token_ids.*0 to 319, got {2**80}"),
    "negative id": (generate(ids(-1)), "prompt_token_ids.*got -1"),
    "bool id": (generate(ids(True)), "prompt_token_ids.*got True"),
    "float id": (generate(ids(5.0)), "prompt_token_ids.*got 5.0"),
    "NaN id": (generate(ids(float("nan"))), "prompt_token_ids.*got nan"),
    "string id": (generate(ids("5")), "prompt_token_ids.*got '5'"),
    "None id": (generate(ids(None)), "prompt_token_ids.*got None"),
    "nested ids": (generate(ids([5, 6])), r"prompt_token_ids.*got \[5, 6\]"),
    "ids as text": (generate({"prompt_token_ids": "567"}), "prompt_token_ids must be a list of ints, got '567'"),
    "ids as one int": (generate({"prompt_token_ids": 5}), "prompt_token_ids must be a list of ints, got 5"),
    "ids as a tensor of floats": (generate({"prompt_token_ids": torch.tensor([5.0])}), "prompt_token_ids.*got 5.0"),
    "ids as an array of bools": (generate({"prompt_token_ids": np.array([True])}), "prompt_token_ids.*got True"),
    "ids as an array of rows": (generate({"prompt_token_ids": np.array([[5, 6]])}), r"prompt_token_ids.*got \[5, 6\]"),
    "ids as a tensor without dimensions": (generate({"prompt_token_ids": torch.tensor(5)}), "list of ints, got tensor"),
    "ids as a set": (generate({"prompt_token_ids": {5, 6}}), "list of ints, got {5, 6}"),
    "ids as bytes": (generate({"prompt_token_ids": b"ab"}), "list of ints, got b'ab'"),
    "ids as a generator": (generate({"prompt_token_ids": (i for i in [5])}), "list of ints, got <generator"),
    "ids as a dict": (generate({"prompt_token_ids": {5: 6}}), "prompt_token_ids.*list.*5: 6"),
    "no prompt": (generate(None), "prompts must be.*got None"),
    "a number": (generate(5), "prompts must be.*got 5"),
    "a number among prompts": (generate(["a", 5]), "prompt must be.*got 5"),
    "None among prompts": (generate(["a", None]), "prompt must be.*got None"),
    "bytes": (generate(b"hello"), "prompts must be.*got b'hello'"),
    "a set": (generate({"hello"}), "prompts must be.*got {'hello'}"),
    "a generator": (generate(each for each in ["hello"]), "prompts must be.*generator"),
    "bare ids beyond the vocabulary": (generate([5, 320]), "prompt_token_ids.*0 to 319, got 320"),
    "bare bools": (generate([True, False]), "prompt_token_ids.*got True"),
    "bare floats": (generate([5.0, 6.0]), "prompt must be.*got 5.0"),
    "an array of floats": (generate(np.array([5.0, 6.0])), "prompt must be.*got 5.0"),
    "a number without dimensions": (generate(np.array(5)), r"prompts must be.*got array\(5\)"),
    "rows of rows": (generate(torch.ones(1, 2, 2, dtype=torch.long)), r"prompt must be.*got \[\[1, 1\], \[1, 1\]\]"),
    "an empty list of ids": (generate([[5], []]), "prompt.*at least one token"),
    "an id among texts": (generate(["a", 5]), "prompt must be.*got 5"),
    "what a tokenizer returns": (lambda llm: llm.generate(llm.get_tokenizer()(["a"])), "prompt must be.*input_ids"),
    "empty dict": (generate({}), "prompt must be.*got {}"),
    "unknown key": (generate({"prompt": "a", "images": []}), "prompt must be.*images"),
    "misspelt key": (generate({"prompt_tokens": [5]}), "prompt must be.*prompt_tokens"),
    "text that is no string": (generate({"prompt": 5}), "prompt must be.*got {'prompt': 5}"),
    "ids with a text that is no string": (generate({**GOOD, "prompt": 5}), "prompt must be.*'prompt': 5"),
    "half a surrogate pair": (generate("a\ud800"), "prompt.*surrogate"),
    "half a surrogate pair in a message": (chat([USER | {"content": "a\ud800"}]), "prompt.*surrogate"),
    "half a surrogate pair in a bad word": (sampling(bad_words=["\ud800"]), "bad_words.*surrogate"),
    "stream: list of prompts": (stream(["a", "b"]), r"prompt must be.*got \['a', 'b'\]"),
    "stream: empty": (stream(""), "prompt.*at least one token"),
    # sampling params
    "params as a dict": (generate(GOOD, {"n": 1}), "sampling_params must be.*got {'n': 1}"),
    "params in a list as a dict": (generate([GOOD], [{"n": 1}]), "sampling_params must be.*got {'n': 1}"),
    "too few params": (generate([GOOD, GOOD], [SamplingParams()]), "sampling_params: got 1 for 2 prompts"),
    "too many params": (generate(GOOD, [SamplingParams()] * 2), "sampling_params: got 2 for 1 prompts"),
    "a None among params": (generate([GOOD], [None]), "sampling_params must be.*got None"),
    "stream: params in a list": (stream(GOOD, [SamplingParams()]), r"sampling_params must be.*got \[Samp"),
    "beam params for generate": (generate(GOOD, BeamSearchParams(2, 2)), "sampling_params must be.*got Beam"),
    "beam params in a list for generate": (
        generate([GOOD], [BeamSearchParams(2, 2)]),
        "sampling_params must.*got Beam",
    ),
    "n > max_num_seqs": (sampling(n=5), "best_of=5.*max_num_seqs=4"),
    "best_of > max_num_seqs": (sampling(best_of=6), "best_of=6.*max_num_seqs=4"),
    "more blocks than there are": (sampling(n=4, max_tokens=50), "need 52 KV blocks.*there are 40"),
    "logprobs > max_logprobs": (sampling(logprobs=21), "logprobs must be at most max_logprobs=20, got 21"),
    "all logprobs": (sampling(logprobs=-1), "logprobs must be at most max_logprobs=20, got -1"),
    "prompt_logprobs > max_logprobs": (sampling(prompt_logprobs=21), "prompt_logprobs.*max_logprobs=20, got 21"),
    "top_k beyond a tensor's ints": (sampling(top_k=2**63), f"top_k must be.*{2**63}"),
    "stop id": (sampling(stop_token_ids=[5, 320]), "stop_token_ids.*320, got 320"),
    "biased id": (sampling(logit_bias={999: 1.0}), "logit_bias.*320, got 999"),
    "allowed id": (sampling(allowed_token_ids=[5, 400]), "allowed_token_ids.*320, got 400"),
    "nothing allowed": (sampling(allowed_token_ids=[]), "allowed_token_ids.*at least one"),
    "nothing left": (sampling(allowed_token_ids=[EOS_TOKEN_ID], min_tokens=1), "allowed_token_ids.*min_tokens"),
    "n of a greedy request": (sampling(n=2, temperature=0), "n and best_of must be 1.*n=2"),
    # chat
    "no messages": (chat([]), r"messages must be.*got \[\]"),
    "messages as text": (chat("hello"), "messages must be.*got 'hello'"),
    "messages as one dict": (chat(USER), "messages must be.*got {'role'"),
    "messages as a number": (chat(5), "messages must be.*got 5"),
    "list of texts": (chat(["hello"]), "messages must be.*got 'h"),
    "list of numbers": (chat([5]), "messages must be.*got 5"),
    "an empty conversation": (chat([[]]), r"messages must be.*got \[\]"),
    "an empty conversation among good ones": (chat([[USER], []]), r"messages must be.*got \[\]"),
    "text after a message": (chat([USER, "hello"]), "messages must be.*got 'hello'"),
    "no role": (chat([{"content": "hello"}]), "messages must be.*'role'.*got {'content': 'hello'}"),
    "no content": (chat([{"role": "user"}]), "messages must be.*'content'.*got {'role': 'user'}"),
    "role that is no string": (chat([{"role": 1, "content": "a"}]), "messages: 'role' must be a string, got.*1"),
    "content that is no string": (chat([USER | {"content": 5}]), "messages: 'content' must be a string or.*5"),
    "content of bare strings": (chat([USER | {"content": ["a"]}]), "messages: the parts.*'text': str.*got 'a'"),
    "a part that is an image": (
        chat([USER | {"content": [{"type": "image_url", "image_url": {"url": "x" * 9999}}]}]),
        "messages: the parts.*'text': str.*text only, got {'image_url'.{,200}$",
    ),
    "a part without its text": (chat([USER | {"content": [{"type": "text"}]}]), "messages: the parts.*got {'type'"),
    "a tool call that is a name": (chat([USER | {"tool_calls": ["f"]}]), "messages: 'tool_calls' must be.*got 'f'"),
    "tool calls that are a number": (chat([USER | {"tool_calls": 5}]), "messages: 'tool_calls' must be.*got 5"),
    "arguments that are no JSON": (chat([USER | call("{'a'}")]), "messages: 'arguments'.*must be JSON, got \"{'a'}\""),
    "arguments that are a list": (chat([USER | call("[1]")]), r"messages: 'arguments'.*an object, got \[1\]"),
    "both start and continue": (
        chat([USER], continue_final_message=True),
        "add_generation_prompt must be False with continue_final_message=True",
    ),
    "a start that is no bool": (chat([USER], add_generation_prompt=1), "add_generation_prompt must be True or.*got 1"),
    "a template that is a number": (chat([USER], chat_template=5), "chat_template must be the text.*got 5"),
    "a template that is a file": (chat([USER], chat_template="a.jinja"), "chat_template must be the text.*'a.jinja'"),
    "variables that are a list": (chat([USER], chat_template_kwargs=["a"]), r"chat_template_kwargs must be.*\['a'\]"),
    "variables with numbers for names": (chat([USER], chat_template_kwargs={1: 2}), "chat_template_kwargs must be.*{1"),
    "a variable that is an argument": (chat([USER], chat_template_kwargs={"tools": []}), "kwargs must be.*got 'tools'"),
    "a variable that is the engine's": (
        chat([USER], chat_template_kwargs={"tokenize": True}),
        "chat_template_kwargs must be.*got 'tokenize'",
    ),
    "a variable named messages": (chat([USER], chat_template_kwargs={"messages": []}), "kwargs must be.*'messages'"),
    "tools that are a number": (chat([USER], tools=5), "tools must be a list.*got 5"),
    "a tool that is a name": (chat([USER], tools=["f"]), "tools must be JSON schemas.*got 'f'"),
    "a tool without a docstring": (chat([USER], tools=[lambda x: x]), "tools: <function.*docstring"),
    "None as content": (chat([{"role": "user", "content": None}]), "messages: .*'content'.*None"),
    "too long a conversation": (chat([USER | {"content": "x" * 200}]), "prompt has .*max_model_len=64"),
    "no chat template": (chat_without(None), "messages: .*no chat template"),
    "what the chat template refuses": (chat_without(RAISING_TEMPLATE), "messages: .*roles must alternate"),
    # beam search
    "beams: sampling params": (beams(SamplingParams()), "params must be a BeamSearchParams, got Samp"),
    "beams: None": (beams(None), "params must be a BeamSearchParams, got None"),
    "beams > max_num_seqs": (beams(BeamSearchParams(5, 4)), "beam_width=5.*max_num_seqs=4"),
    "beams: more blocks than there are": (beams(BeamSearchParams(4, 50)), "beam_width=4.*52 KV blocks.*there are 40"),
    # requests
    "duplicate request_id": (duplicate, "request_id 'twin' is in use"),
    "empty request_id": (add(""), "request_id must be a non-empty string, got ''"),
    "request_id that is no string": (add(7), "request_id must be a non-empty string, got 7"),
    "request_id that cannot be a key": (add(["a"]), r"request_id must be a non-empty string, got \['a'\]"),
    "engine: params as a dict": (add("a", GOOD, {"n": 1}), "sampling_params must be.*got {'n': 1}"),
    "engine: bad prompt": (add("a", [5, "a"]), r"prompt must be.*got \[5, 'a'\]"),
}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm(
        tiny_model(num_hidden_layers=1),
        max_model_len=64,
        max_num_seqs=4,
        block_size=4,
        num_gpu_blocks_override=40,
        swap_space=0.001,
    )


@pytest.fixture(scope="module")
def expected(llm) -> list[int]:
    return hf_greedy(llm.llm_engine.model_runner.model, GOOD["prompt_token_ids"], 4)


def assert_still_generates(llm: LLM, expected: list[int]) -> None:
    assert_at_rest(llm)
    (output,) = llm.generate(GOOD, SamplingParams(temperature=0, max_tokens=4), use_tqdm=False)
    assert output.outputs[0].token_ids == expected
    assert_at_rest(llm)


@pytest.mark.parametrize(("mistake", "message"), TO_A_LIVE_ENGINE.values(), ids=TO_A_LIVE_ENGINE)
def test_a_mistake_is_named_and_the_engine_goes_on(llm, expected, mistake, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        mistake(llm)
    assert_still_generates(llm, expected)


def test_a_mistake_does_not_disturb_requests_that_run(llm, expected):
    growing = llm.stream(GOOD, SamplingParams(temperature=0, max_tokens=4))
    next(growing)
    for mistake, message in TO_A_LIVE_ENGINE.values():
        with pytest.raises(ValueError, match=f"(?s){message}"):
            mistake(llm)
    *_, last = growing
    assert last.outputs[0].token_ids == expected
    assert_at_rest(llm)


@pytest.mark.parametrize(
    "extreme",
    [
        {"top_k": 2**63 - 1},
        {"seed": 2**63 - 1, "n": 3},
        {"logit_bias": {1: 1e300}},
        {"repetition_penalty": 1e300},
        {"repetition_penalty": 1e-300},
        {"min_tokens": 2**62, "max_tokens": 2**64},
    ],
    ids=str,
)
def test_the_largest_values_that_are_allowed_do_not_break_a_step(llm, expected, extreme):
    outputs = llm.generate(GOOD, SamplingParams(**{"max_tokens": 4, **extreme}), use_tqdm=False)
    assert all(completion.token_ids for completion in outputs[0].outputs)
    assert_still_generates(llm, expected)


def test_a_refused_request_does_not_change_the_seeds_of_later_ones():
    mistakes = ["n > max_num_seqs", "id beyond the vocabulary", "logprobs > max_logprobs", "nothing left"]

    def draw_after(mistakes: list[str]) -> list[int]:
        llm = tiny_llm(tiny_model(num_hidden_layers=1), max_num_seqs=4, max_model_len=64, swap_space=0.001)
        for name in mistakes:
            mistake, message = TO_A_LIVE_ENGINE[name]
            with pytest.raises(ValueError, match=f"(?s){message}"):
                mistake(llm)
        return llm.generate(GOOD, SamplingParams(max_tokens=8), use_tqdm=False)[0].outputs[0].token_ids

    assert draw_after(mistakes) == draw_after([])


# -- before there is an engine -------------------------------------------------------------------------------


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown setting": ({"colour": "red"}, "no setting 'colour'.*known: block_size"),
    "misspelt setting": ({"blok_size": 8}, "no setting 'blok_size'; did you mean 'block_size'"),
    "a config among settings": ({"cache_config": CacheConfig()}, "no setting 'cache_config'"),
    "unknown device": ({"device": "tpu"}, "EngineConfig.device must be.*got 'tpu'"),
    "a device of another kind than the model's": ({"device": "mps"}, "EngineConfig.device.*'cpu', got 'mps'"),
    "a dtype other than the model's": ({"dtype": "bfloat16"}, "ModelConfig.dtype.*'float32', got 'bfloat16'"),
    "longer than the model": ({"max_model_len": 513}, "max_model_len must be at most 512.*got 513"),
    "unknown order": ({"sampling_order": "random"}, "sampling_order must be one of.*got 'random'"),
    "no room for one block": ({"kv_cache_memory_bytes": 100}, "kv_cache_memory_bytes leaves 100 bytes.*one block"),
    "budget below seats": ({"max_num_batched_tokens": 8}, "max_num_batched_tokens.*max_num_seqs=256.*got 8"),
    "budget below length": (
        {"enable_chunked_prefill": False, "max_num_batched_tokens": 300, "max_model_len": 400},
        "max_num_batched_tokens.*max_model_len=400.*got 300",
    ),
    "a bool for a number": ({"block_size": True}, "CacheConfig.block_size.*got True"),
    "a number for a bool": ({"enable_prefix_caching": 1}, "CacheConfig.enable_prefix_caching.*got 1"),
    "no blocks": ({"num_gpu_blocks_override": 0}, "num_gpu_blocks_override.*got 0"),
}


@pytest.mark.parametrize(("settings", "message"), SETTINGS.values(), ids=SETTINGS)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_llm(tiny_model(num_hidden_layers=1), **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(ValueError, match=f"device must be one that is there, got '{device}'"):
        resolve_device(device)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model(num_hidden_layers=1).save_pretrained(folder)
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "its config cannot be loaded"),
    "half a config": (lambda folder: _truncate(folder / "config.json"), "its config cannot be loaded"),
    "config that is no object": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "its config cannot be loaded",
    ),
    "unknown model type": (lambda folder: _edit(folder / "config.json", model_type="nonesuch"), "nonesuch"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "its model cannot be loaded"),
    "half the weights": (lambda folder: _truncate(folder / "model.safetensors"), "its model cannot be loaded"),
    "weights of another shape": (
        lambda folder: _edit(folder / "config.json", vocab_size=99),
        "its model cannot be loaded",
    ),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "its tokenizer cannot be loaded",
    ),
    "half a tokenizer": (lambda folder: _truncate(folder / "tokenizer.json"), "its tokenizer cannot be loaded"),
    "nothing": (lambda folder: [path.unlink() for path in folder.iterdir()], "its config cannot be loaded"),
}


@pytest.mark.parametrize(("damage", "message"), FOLDERS.values(), ids=FOLDERS)
def test_what_is_wrong_with_a_model_folder_is_named(model_folder, tmp_path, damage, message):
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(ValueError, match=f"(?s){re.escape(str(tmp_path))}.*{message}"):
        LLM(str(tmp_path), device="cpu")


def test_a_good_model_folder_loads_and_generates(model_folder, expected):
    llm = LLM(str(model_folder), device="cpu", swap_space=0.001, max_model_len=64)
    assert_still_generates(llm, expected)


@pytest.mark.parametrize("field", ["model", "tokenizer"])
def test_a_folder_that_does_not_exist_is_named(model_folder, field):
    names = {"model": str(model_folder)} | {field: "/no/such/folder"}
    with pytest.raises(ValueError, match=f"ModelConfig.{field}='/no/such/folder'"):
        LLM(**names, device="cpu")


@pytest.mark.parametrize("model", ["", "  ", 5, ["a"], True])
def test_a_model_that_is_no_name_is_refused(model):
    with pytest.raises(ValueError, match=r"ModelConfig\.model must be a non-empty string"):
        LLM(model)


def test_an_engine_config_of_wrong_parts_is_refused():
    with pytest.raises(ValueError, match=r"EngineConfig\.model_config must be a ModelConfig, got 'tiny'"):
        EngineConfig("tiny")
    with pytest.raises(ValueError, match=r"EngineConfig\.cache_config must be a CacheConfig, got None"):
        EngineConfig(ModelConfig("tiny"), None)
