"""In whatever container prompts and numbers come, the result is that of plain lists and ints."""

import array
from collections import deque

import numpy as np
import pytest
import torch

from folovllm import LLM, BeamSearchParams, CacheConfig, EngineConfig, ModelConfig, SamplingParams, SchedulerConfig
from tests.tiny_models import hf_greedy, tiny_llm, tiny_model

MODEL = tiny_model(num_hidden_layers=1)
GREEDY = SamplingParams(temperature=0, max_tokens=3)
IDS = [5, 6, 7]
OTHER = [9, 8, 300]

ONE = {
    "list": IDS,
    "tuple": tuple(IDS),
    "range": range(5, 8),
    "deque": deque(IDS),
    "array of the standard library": array.array("q", IDS),
    "NumPy ints": [np.int64(5), np.uint8(6), np.int32(7)],
    "PyTorch scalars": list(torch.tensor(IDS)),
    "NumPy array": np.array(IDS),
    "NumPy array of bytes": np.array(IDS, dtype=np.uint8),
    "NumPy array of objects": np.array(IDS, dtype=object),
    "tensor": torch.tensor(IDS),
    "tensor of int32": torch.tensor(IDS, dtype=torch.int32),
    "part of a tensor": torch.tensor([[5, 0], [6, 0], [7, 0]])[:, 0],
}
SEVERAL = {
    "lists": [IDS, OTHER],
    "tuples": (tuple(IDS), tuple(OTHER)),
    "tensors": [torch.tensor(IDS), torch.tensor(OTHER)],
    "arrays": [np.array(IDS), np.array(OTHER)],
    "array of rows": np.array([IDS, OTHER]),
    "tensor of rows": torch.tensor([IDS, OTHER]),
    "dicts": [{"prompt_token_ids": np.array(IDS)}, {"prompt_token_ids": torch.tensor(OTHER)}],
    "a mixture": deque([torch.tensor(IDS), {"prompt_token_ids": OTHER}]),
}


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm(MODEL)


def check(output, token_ids: list[int]) -> None:
    """The plain ints, and what HuggingFace generates from them."""
    assert output.prompt is None
    assert output.prompt_token_ids == token_ids
    assert {type(token_id) for token_id in output.prompt_token_ids} == {int}
    assert output.outputs[0].token_ids == hf_greedy(MODEL, token_ids, 3)


@pytest.mark.parametrize("prompt", ONE.values(), ids=ONE)
def test_one_prompt_of_ids(llm, prompt):
    for form in (prompt, [prompt], {"prompt_token_ids": prompt}):
        (output,) = llm.generate(form, GREEDY, use_tqdm=False)
        check(output, IDS)
    for form in (prompt, {"prompt_token_ids": prompt}):
        check([*llm.stream(form, GREEDY)][-1], IDS)
    (found,) = llm.beam_search(prompt, BeamSearchParams(1, 3), use_tqdm=False)
    check(found, IDS)
    assert llm.compute_logits(prompt).equal(llm.compute_logits({"prompt_token_ids": IDS}))


@pytest.mark.parametrize("prompts", SEVERAL.values(), ids=SEVERAL)
def test_several_prompts_of_ids(llm, prompts):
    first, second = llm.generate(prompts, (GREEDY, GREEDY), use_tqdm=False)
    check(first, IDS)
    check(second, OTHER)


def test_prompts_of_different_lengths(llm):
    for output, token_ids in zip(llm.generate([[1, 2], [3]], GREEDY, use_tqdm=False), [[1, 2], [3]], strict=True):
        check(output, token_ids)


def test_one_row_is_what_a_tokenizer_returns_for_one_text(llm):
    tokenizer = llm.get_tokenizer()
    encoded = tokenizer("The dog", return_tensors="pt").input_ids
    assert encoded.ndim == 2
    (output,) = llm.generate(encoded, GREEDY, use_tqdm=False)
    check(output, tokenizer("The dog").input_ids)


@pytest.mark.parametrize("texts", [np.array(["a dog", "The"]), [np.str_("a dog"), "The"], deque(["a dog", "The"])])
def test_texts_may_come_in_any_sequence(llm, texts):
    outputs = llm.generate(texts, GREEDY, use_tqdm=False)
    assert [output.prompt for output in outputs] == ["a dog", "The"]
    assert {type(output.prompt) for output in outputs} == {str}
    expected = llm.generate(["a dog", "The"], GREEDY, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == [output.outputs[0].token_ids for output in expected]


def test_a_single_text_of_numpy_is_text(llm):
    for prompt in (np.str_("a dog"), {"prompt": np.str_("a dog")}):
        (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)
        assert (type(output.prompt), output.prompt) == (str, "a dog")


def test_no_prompts_give_no_results_in_any_container(llm):
    for none in ([], (), np.array([]), torch.empty(0, 3, dtype=torch.long)):
        assert llm.generate(none, GREEDY, use_tqdm=False) == []


# -- numbers in parameters and configs -----------------------------------------------------------------------


def as_numpy(value):
    return {bool: np.bool_, int: np.int64, float: np.float64, str: np.str_}[type(value)](value)


def as_tensor(value):
    return value if isinstance(value, str) else torch.tensor(value)


PARAMS = {
    "n": 2,
    "best_of": 3,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.5,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.5,
    "seed": 7,
    "stop": "end",
    "ignore_eos": True,
    "max_tokens": 9,
    "min_tokens": 1,
    "logprobs": 2,
    "prompt_logprobs": True,
    "detokenize": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "include_stop_str_in_output": True,
}
LISTS = {"stop": ["a", "b"], "stop_token_ids": [5, 6], "bad_words": ["x"], "allowed_token_ids": [7, 8]}


@pytest.mark.parametrize("form", [as_numpy, as_tensor])
def test_numbers_of_numpy_and_pytorch_are_pythons_in_parameters(form):
    plain = SamplingParams(**PARAMS, logit_bias={5: 1.5})
    given = SamplingParams(**{name: form(value) for name, value in PARAMS.items()}, logit_bias={form(5): form(1.5)})
    assert repr(given) == repr(plain)
    assert repr(BeamSearchParams(form(2), form(3), form(True), form(0.5))) == repr(BeamSearchParams(2, 3, True, 0.5))


@pytest.mark.parametrize("form", [np.array, tuple, deque, lambda values: np.array(values, dtype=object)])
def test_lists_in_parameters_may_come_in_any_sequence(form):
    given = SamplingParams(**{name: form(values) for name, values in LISTS.items()})
    assert repr(given) == repr(SamplingParams(**LISTS))


def test_token_ids_in_parameters_may_be_tensors_and_ranges():
    for form in (torch.tensor([5, 6]), range(5, 7)):
        assert repr(SamplingParams(stop_token_ids=form)) == repr(SamplingParams(stop_token_ids=[5, 6]))


SETTINGS = {
    ModelConfig: {
        "model": "tiny",
        "dtype": "float32",
        "max_model_len": 64,
        "trust_remote_code": False,
        "seed": 3,
        "max_logprobs": 5,
        "model_impl": "transformers",
    },
    CacheConfig: {
        "block_size": 8,
        "gpu_memory_utilization": 0.5,
        "swap_space": 0.5,
        "enable_prefix_caching": False,
        "num_gpu_blocks_override": 9,
        "kv_cache_memory_bytes": 2**20,
    },
    SchedulerConfig: {
        "max_num_batched_tokens": 99,
        "max_num_seqs": 3,
        "enable_chunked_prefill": False,
        "num_speculative_tokens": 2,
        "prompt_lookup_max": 2,
    },
    EngineConfig: {"device": "cpu", "sampling_order": "vllm", "record_history": True},
}


@pytest.mark.parametrize("form", [as_numpy, as_tensor])
@pytest.mark.parametrize("kind", SETTINGS)
def test_numbers_of_numpy_and_pytorch_are_pythons_in_configs(kind, form):
    settings = SETTINGS[kind]
    given = kind(**{name: form(value) for name, value in settings.items()})
    assert repr(given) == repr(kind(**settings))


NO_INTS = [np.bool_(True), torch.tensor(True), np.float64(2.0), torch.tensor(2.0), np.array([2]), torch.tensor([2])]


@pytest.mark.parametrize("value", NO_INTS, ids=repr)
def test_what_is_no_int_stays_refused(value):
    for make in (
        lambda: SamplingParams(n=value),
        lambda: SamplingParams(stop_token_ids=[value]),
        lambda: CacheConfig(block_size=value),
        lambda: BeamSearchParams(value, 2),
    ):
        with pytest.raises(ValueError, match="must be an int"):
            make()


@pytest.mark.filterwarnings("ignore")  # PyTorch says that some of these are new
def test_tensors_whose_values_cannot_be_read_are_refused(llm):
    row = torch.tensor([3, 4])
    for odd in (
        row.to("meta"),
        torch.tensor(3, device="meta"),
        row.to_sparse(),
        torch.eye(2).to_sparse_csr(),
        torch.quantize_per_tensor(torch.tensor([1.0]), 1.0, 0, torch.quint8),
        torch.nested.nested_tensor([row, row[:1]]),
        torch.nested.nested_tensor([row, row[:1]], layout=torch.jagged),
    ):
        for prompt in (odd, [odd], [3, odd], {"prompt_token_ids": odd}, {"prompt_token_ids": [odd]}):
            with pytest.raises(ValueError, match=r"^prompt"):
                llm.generate(prompt, GREEDY, use_tqdm=False)
        with pytest.raises(ValueError, match=r"^max_tokens must be an int"):
            SamplingParams(max_tokens=odd)
        with pytest.raises(ValueError, match=r"^temperature must be a finite number"):
            SamplingParams(temperature=odd)
