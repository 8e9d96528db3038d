"""A user's own strategy or logits processor may change what it gets in place: nothing else changes by it.

The oracle is the same function written without changing anything in place.
"""

import math

import pytest
import torch
from torch import Tensor

from folovllm import SamplingParams
from folovllm.sampling.sampler import Sampler, SamplingMetadata, SamplingRow
from tests.engine_checks import assert_at_rest
from tests.tiny_models import VOCAB_SIZE, tiny_llm, tiny_model

PROMPTS = [{"prompt_token_ids": [5 + i, 6, 7, 5 + i, 6]} for i in range(5)]
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_k": 319},
    {"top_p": 0.9},
    {"min_p": 0.05},
    {"min_p": 0.05, "top_p": 0.9, "top_k": 9, "temperature": 1.3},
    {"presence_penalty": 1.0},
    {"logit_bias": {9: 3.0}},
    {"allowed_token_ids": [9, 10, 11, 12]},
    {"bad_words": ["a"]},
]


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_hidden_layers=1, hidden_size=32, intermediate_size=48)


class Sharpened(Sampler):
    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        strength = torch.tensor([[2.0 if each.max_tokens == 8 else 1.0] for each in params])
        return logits * strength


class SharpenedInPlace(Sharpened):
    """Keeps what it was given, too, and spoils it later."""

    def __init__(self, order) -> None:
        super().__init__(order)
        self.seen: list[Tensor] = []

    def refine(self, logits: Tensor, params: list[SamplingParams]) -> Tensor:
        for each in self.seen:
            each.fill_(math.nan)
        logits *= torch.tensor([[2.0 if each.max_tokens == 8 else 1.0] for each in params])
        self.seen = [logits]
        return logits


def prefer(factor: float, in_place: bool, with_prompt: bool):
    """Return a logits processor that favours tokens that came before, in one of its two forms and two manners."""

    def favour(token_ids: list[int], logits: Tensor) -> Tensor:
        wanted = torch.tensor(token_ids[-3:] or [3])
        token_ids.clear()  # the list is a copy too
        if in_place:
            logits[wanted] += factor
            return logits
        return logits.index_add(0, wanted.unique(), torch.full((len(wanted.unique()),), factor))

    if with_prompt:
        return lambda prompt, output, logits: favour(prompt + output, logits)
    return favour


def run(model, params, sampler=None, **settings):
    llm = tiny_llm(model, **settings)
    if sampler is not None:
        llm.llm_engine.sampler = sampler
    outputs = llm.generate(PROMPTS[: len(params)], params, use_tqdm=False)
    assert_at_rest(llm)
    return [[Answer(c) for c in output.outputs] for output in outputs]


class Answer:
    """A completion's tokens, and the model's log-probabilities of them and of others; a batch may round these."""

    def __init__(self, completion) -> None:
        self.token_ids = completion.token_ids
        self.logprobs = [each.logprob for entry in completion.logprobs for _, each in sorted(entry.items())]

    def __eq__(self, other) -> bool:
        return self.token_ids == other.token_ids and self.logprobs == pytest.approx(other.logprobs, abs=1e-4)


@pytest.mark.parametrize("order", ["huggingface", "vllm"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_strategy_in_place_is_the_same_as_one_that_copies(model, setting, order):
    others = [{"max_tokens": 7}, {"max_tokens": 7, "temperature": 0}, {"max_tokens": 7, "top_p": 0.8}]
    params = [
        SamplingParams(seed=i, logprobs=2, **each) for i, each in enumerate([setting | {"max_tokens": 8}, *others])
    ]
    plain = run(model, params, sampling_order=order)
    copying = run(model, params, Sharpened(order), sampling_order=order)
    assert run(model, params, SharpenedInPlace(order), sampling_order=order) == copying
    assert copying[1:] == plain[1:]
    alone = run(model, params[:1], SharpenedInPlace(order), sampling_order=order)
    assert alone == copying[:1]


@pytest.mark.parametrize("setting", [{"temperature": 0}, {"n": 2, "best_of": 3}, *SETTINGS], ids=str)
def test_a_logits_processor_in_place_is_the_same_as_one_that_copies(model, setting):
    others = [SamplingParams(seed=7, logprobs=2), SamplingParams(temperature=0, logprobs=2)]
    runs = {}
    for in_place in (False, True):
        functions = [prefer(1.5, in_place, with_prompt=True), prefer(0.5, in_place, with_prompt=False)]
        params = SamplingParams(seed=1, logprobs=2, logits_processors=functions, **setting)
        runs[in_place] = run(model, [params, *others])
        assert run(model, [params]) == runs[in_place][:1]
    assert runs[True] == runs[False]
    assert runs[True][1:] == run(model, [SamplingParams(seed=1, logprobs=2, **setting), *others])[1:]


@pytest.mark.parametrize(
    "settings",
    [{"num_speculative_tokens": 3}, {"block_size": 4, "num_gpu_blocks_override": 16, "swap_space": 0}],
    ids=str,
)
def test_drafts_and_preemptions_change_nothing(model, settings):
    def make(i):
        functions = [prefer(8.0, in_place=True, with_prompt=True)]
        return SamplingParams(
            seed=i, temperature=i / 2, logprobs=0, max_tokens=30, ignore_eos=True, logits_processors=functions
        )

    params = [make(i) for i in range(4)]
    llm = tiny_llm(model, record_history=True, **settings)
    llm.generate(PROMPTS[:4], params, use_tqdm=False)
    records = [record for step in llm.llm_engine.history.steps for record in step.sequences]
    assert any(record.num_draft_tokens or record.preempted for record in records)
    assert run(model, params, **settings) == run(model, params)


def test_processors_run_before_penalties_and_temperature_and_on_raw_logits_after_the_bias():
    seen = {}

    def look(output_token_ids, logits):
        seen["output"], seen["logits"] = output_token_ids, logits.clone()
        return logits.mul_(0.5)

    params = SamplingParams(
        temperature=0.5,
        logit_bias={1: 4.0},
        frequency_penalty=1.0,
        bad_words=["x"],
        logprobs=0,
        logits_processors=[look],
    )
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    row = SamplingRow(params, [0], [2, 2], 0.9995, bad_words_token_ids=[[3]])
    result = Sampler()(logits, SamplingMetadata.build([row], 4, torch.device("cpu")))
    assert seen["output"] == [2, 2]
    assert seen["logits"].tolist() == [1.0, 6.0, 3.0, -math.inf]
    assert logits.tolist() == [[1.0, 2.0, 3.0, 4.0]]
    # Halved, then 2 occurrences at 1 each off, then over .5: [1, 6, -1, -inf]. Token 2 begins at share[:2].sum().
    share = torch.tensor([1.0, 6.0, -1.0]).double().softmax(dim=-1)
    assert share[:2].sum() < 0.9995
    assert result.token_ids.tolist() == [2]
    expected = logits.log_softmax(dim=-1)[0, result.token_ids[0]]
    assert torch.equal(result.logprobs.logprobs[0, 0], expected)


def test_what_is_forbidden_stays_forbidden_whatever_a_processor_returns(model):
    def zeros(output, logits):
        return torch.zeros(VOCAB_SIZE)

    for function in (zeros, lambda output, logits: logits.zero_()):
        params = SamplingParams(seed=0, logprobs=0, allowed_token_ids=[9, 10, 11], logits_processors=[function])
        [[answer]] = run(model, [params])
        assert set(answer.token_ids) == {9, 10, 11}


WRONG = {
    "None": (lambda logits: None, r"must return logits, got None"),
    "a list": (lambda logits: [1.0], r"must return logits, got \[1.0\]"),
    "sparse ones": (lambda logits: logits.to_sparse(), r"must return logits .* got .*sparse"),
    "another shape": (
        lambda logits: logits[..., :-1],
        r"must return logits of shape, dtype, .* layout .* got ",
    ),
    "a row more": (lambda logits: logits[None], "must return logits of shape"),
    "another dtype": (lambda logits: logits.double(), r"must return .*float32.*, got .*float64"),
    "whole numbers": (lambda logits: logits.long(), r"must return .*float32.*, got .*int64"),
    "another device": (lambda logits: logits.to("meta"), r"must return .*, got .*meta"),
    "resized": (lambda logits: logits.resize_(3), "must return logits of shape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_logits_is_refused_by_name(model, name):
    wrong, message = WRONG[name]

    class Wrong(Sampler):
        def refine(self, logits, params):
            return wrong(logits)

    with pytest.raises(ValueError, match=f"^Sampler.refine {message}"):
        run(model, [SamplingParams(logprobs=0)], Wrong())
    for temperature in (0, 1):
        params = SamplingParams(
            temperature=temperature, logprobs=0, logits_processors=[lambda output, logits: wrong(logits)]
        )
        with pytest.raises(ValueError, match=f"^logits_processors: <function .*> {message}"):
            run(model, [params])


def test_an_exception_in_users_code_arrives_as_it_is(model):
    def fail(output_token_ids, logits):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine"):
        run(model, [SamplingParams(logprobs=0, logits_processors=[fail])])


def test_a_strategy_that_wants_gradients_is_no_trouble(model):
    scale = torch.tensor(2.0, requires_grad=True)

    class Learned(Sampler):
        def refine(self, logits, params):
            return logits * scale

    params = [SamplingParams(seed=0, logprobs=0, max_tokens=8)]
    assert run(model, params, Learned()) == run(model, params, Sharpened())


def test_a_function_put_on_an_object_is_a_strategy_too(model):
    sampler = Sampler()
    sampler.refine = lambda logits, params: logits.mul_(2.0)
    params = [SamplingParams(seed=0, logprobs=0, max_tokens=8)]
    assert run(model, params, sampler) == run(model, params, Sharpened())


def test_nothing_is_copied_where_there_is_no_strategy(monkeypatch):
    logits = torch.randn(2, 64)
    rows = [SamplingRow(SamplingParams(seed=i), [], [], 0.5) for i in range(2)]
    metadata = SamplingMetadata.build(rows, 64, torch.device("cpu"))
    monkeypatch.setattr(Tensor, "clone", lambda self: pytest.fail("a copy"))
    Sampler()(logits, metadata)
