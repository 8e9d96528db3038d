"""Sampling parameters: vLLM's defaults, and every wrong value refused by name."""

import copy
import dataclasses
import math
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folovllm import BeamSearchParams, SamplingParams, SamplingType, StructuredOutputsParams
from folovllm.sampling_params import takes_prompt


def double(output_token_ids, logits):
    return logits * 2


VLLM_DEFAULTS = {
    "n": 1,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "seed": None,
    "stop": [],
    "stop_token_ids": [],
    "bad_words": [],
    "ignore_eos": False,
    "max_tokens": 16,
    "min_tokens": 0,
    "logprobs": None,
    "prompt_logprobs": None,
    "detokenize": True,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "logit_bias": None,
    "allowed_token_ids": None,
    "structured_outputs": None,
}
ONLY_HERE = ("best_of", "logits_processors")

NAN, INF = math.nan, math.inf
BAD = [
    *[("n", value) for value in (0, -1, 1.0, True, "1", None, NAN)],
    *[("best_of", value) for value in (0, 1.5, True, "2")],
    *[
        (name, value)
        for name in ("presence_penalty", "frequency_penalty")
        for value in (-2.1, 2.1, NAN, INF, "0", None)
    ],
    *[("repetition_penalty", value) for value in (0, -0.5, NAN, INF, True, "1")],
    *[("temperature", value) for value in (-0.1, 2.1, NAN, INF, -INF, True, "1", None, [1])],
    *[("temperature", value) for value in (np.bool_(True), bytearray(b"1"), np.array([0.5]), 10**400, 1j)],
    *[("top_p", value) for value in (0, -0.1, 1.1, NAN, INF, True, "0.9")],
    *[("top_k", value) for value in (-2, 1.5, 5.0, True, "5", None, np.bool_(True), 2**63)],
    *[("min_p", value) for value in (-0.1, 1.1, NAN, INF, False, "0")],
    *[("seed", value) for value in (-2, 1.0, True, "1", 2**63)],
    *[("stop", value) for value in ("", [""], [1], 5, {"a": 1}, b"x", [None])],
    *[("stop_token_ids", value) for value in (5, "5", ["5"], [1.0], [True], [-1], [None])],
    *[("bad_words", value) for value in ("word", [""], [1], 5)],
    *[("max_tokens", value) for value in (0, -1, 1.5, True, "16", INF)],
    *[("min_tokens", value) for value in (-1, 1.5, True, "0", None)],
    *[(name, value) for name in ("logprobs", "prompt_logprobs") for value in (-2, 1.5, "1")],
    *[
        (name, value)
        for name in (
            "ignore_eos",
            "detokenize",
            "skip_special_tokens",
            "spaces_between_special_tokens",
            "include_stop_str_in_output",
        )
        for value in (1, None, "True")
    ],
    *[("logit_bias", value) for value in ([], {"1": 1.0}, {1: "1"}, {1: NAN}, {-1: 1.0}, {True: 1.0}, 5)],
    *[("allowed_token_ids", value) for value in ([], 5, "5", [1.5], [-1], [True])],
]


def test_defaults_are_vllms():
    params = SamplingParams()
    assert {name: getattr(params, name) for name in VLLM_DEFAULTS} == VLLM_DEFAULTS
    assert {field.name for field in dataclasses.fields(params)} == {*VLLM_DEFAULTS, *ONLY_HERE}


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda value: repr(value)[:20])
def test_a_wrong_value_is_refused_with_field_value_and_what_is_allowed(name, value):
    with pytest.raises(ValueError, match=rf"^{name}.* (must|needs)") as caught:
        SamplingParams(**{name: value})
    innermost = value
    while isinstance(innermost, list | dict) and innermost:
        innermost = next(iter(innermost.values() if isinstance(innermost, dict) else innermost))
    keys = list(value) if isinstance(value, dict) else []
    assert any(repr(part) in str(caught.value) for part in (value, innermost, *keys))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n": 3, "best_of": 2}, "best_of must be at least n=3, got 2"),
        ({"min_tokens": 17}, "min_tokens must be at most max_tokens=16, got 17"),
        ({"stop": "x", "detokenize": False}, "stop needs detokenize=True"),
        ({"temperature": 0, "n": 2}, "n and best_of must be 1 when temperature is 0"),
        ({"temperature": 0, "best_of": 2}, "n and best_of must be 1 when temperature is 0"),
    ],
    ids=str,
)
def test_a_contradictory_pair_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**params)


@pytest.mark.parametrize(
    ("given_value", "kept"),
    [
        ({"stop": "end"}, {"stop": ["end"]}),
        ({"stop": ("a", "b")}, {"stop": ["a", "b"]}),
        (
            {"stop": None, "stop_token_ids": None, "bad_words": None},
            {"stop": [], "stop_token_ids": [], "bad_words": []},
        ),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 2**63 - 1}, {"top_k": 2**63 - 1}),
        ({"logprobs": 0}, {"logprobs": 0}),
        ({"min_tokens": 16}, {"min_tokens": 16}),
        ({"temperature": 0.01}, {"temperature": 0.01}),
        ({"n": 2, "best_of": 2}, {"n": 2, "best_of": 2}),
        ({"seed": -1}, {"seed": None}),
        ({"logprobs": True, "prompt_logprobs": False}, {"logprobs": 1, "prompt_logprobs": None}),
        ({"logprobs": -1}, {"logprobs": -1}),
        ({"n": 3}, {"best_of": None, "num_sequences": 3}),
        ({"n": 3, "best_of": 4}, {"best_of": 4, "num_sequences": 4}),
        ({"logits_processors": []}, {"logits_processors": None}),
        ({"logits_processors": (double,)}, {"logits_processors": [double]}),
        ({"structured_outputs": {"choice": ["a"]}}, {"structured_outputs": StructuredOutputsParams(choice=["a"])}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"top_p": 1e-9, "min_p": 1, "repetition_penalty": 1e-3}, {"top_p": 1e-9, "min_p": 1.0}),
        ({"presence_penalty": -2, "frequency_penalty": 2}, {"presence_penalty": -2.0, "frequency_penalty": 2.0}),
        ({"n": np.int64(2), "temperature": np.float32(0.5)}, {"n": 2, "temperature": 0.5}),
        ({"max_tokens": None, "min_tokens": 99}, {"max_tokens": None, "min_tokens": 99}),
        ({"logit_bias": {3: 200, 4: -200}}, {"logit_bias": {3: 100.0, 4: -100.0}}),
        ({"stop_token_ids": {7}, "allowed_token_ids": (1, 2)}, {"stop_token_ids": [7], "allowed_token_ids": [1, 2]}),
    ],
)
def test_what_is_allowed_is_kept_in_one_form(given_value, kept):
    params = SamplingParams(**given_value)
    for name, value in kept.items():
        assert getattr(params, name) == value
        assert type(getattr(params, name)) is type(value)


# What a set of parameters becomes when one of them is replaced: the same as if all had been given anew.
GIVEN = [{}, {"n": 4}, {"n": 2, "best_of": 3}, {"temperature": 0, "top_p": 0.5, "top_k": 5, "min_p": 0.5}, {"seed": -1}]
CHANGES = [{"n": 1}, {"n": 2}, {"n": 4}, {"best_of": 7}, {"best_of": None}, {"temperature": 1}, {"temperature": 0}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
@pytest.mark.parametrize("params", GIVEN, ids=str)
def test_replacing_a_field_equals_making_it_anew(params, change):
    def outcome(function, *arguments, **changes):
        try:
            made = function(*arguments, **changes)
        except ValueError as error:
            return str(error)
        return made, made.num_sequences, made.needs_logprobs, made.sampling_type

    anew = outcome(SamplingParams, **(params | change))
    first = SamplingParams(**params)
    for copied in (first, first.clone(), copy.copy(first), copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert copied == first
        assert repr(copied) == repr(first)
        assert outcome(dataclasses.replace, copied, **change) == anew
    assert outcome(SamplingParams, **(dataclasses.asdict(first) | change)) == anew


def test_nobody_is_told_of_a_field_that_nobody_set():
    assert dataclasses.replace(SamplingParams(), n=2).num_sequences == 2
    assert dataclasses.replace(SamplingParams(n=4), n=1).num_sequences == 1
    assert dataclasses.replace(SamplingParams(temperature=0, top_p=0.5), temperature=1).top_p == 0.5


@pytest.mark.parametrize(
    "wrong",
    [len, [5], ["f"], [lambda logits: logits], [lambda a, b, c, d: d], [lambda: 0], [lambda *, output, logits: 0]],
)
def test_what_is_no_logits_processor_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^logits_processors must be"):
        SamplingParams(logits_processors=wrong)


@pytest.mark.parametrize(
    ("function", "wants_prompt"),
    [
        (lambda output, logits: logits, False),
        (lambda prompt, output, logits: logits, True),
        (lambda output, logits, scale=2.0: logits, False),
        (partial(lambda scale, output, logits: logits, 2.0), False),
        (lambda *given: given[-1], False),
    ],
)
def test_the_two_forms_of_a_logits_processor_are_told_apart(function, wants_prompt):
    assert takes_prompt(function) is wants_prompt


def test_a_clone_shares_functions_but_no_list():
    params = SamplingParams(logits_processors=[double], structured_outputs={"choice": ["a"]}, stop=["x"])
    cloned = params.clone()
    assert cloned == params
    assert cloned.logits_processors[0] is double
    assert cloned.logits_processors is not params.logits_processors
    assert cloned.structured_outputs.choice is not params.structured_outputs.choice


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"temperature": 0}, SamplingType.GREEDY),
        ({"temperature": 0, "seed": 5}, SamplingType.GREEDY),
        ({}, SamplingType.RANDOM),
        ({"seed": 0}, SamplingType.RANDOM_SEED),
    ],
    ids=str,
)
def test_sampling_type(params, kind):
    assert SamplingParams(**params).sampling_type is kind


def test_a_tiny_temperature_is_raised_with_a_warning():
    with pytest.warns(UserWarning, match=r"temperature=0\.001 is raised to 0\.01") as caught:
        assert SamplingParams(temperature=0.001).temperature == 0.01
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("beam_width", "max_tokens") for value in (0, -1, 1.5, True, "2", None)],
        *[("ignore_eos", value) for value in (1, None)],
        *[("length_penalty", value) for value in (NAN, INF, "1", True, None, 10.1, -1e3, 1e300)],
    ],
)
def test_a_wrong_beam_search_value_is_refused_with_field_value_and_what_is_allowed(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be") as caught:
        BeamSearchParams(**{"beam_width": 2, "max_tokens": 3, name: value})
    assert repr(value) in str(caught.value)


def test_beam_search_values_are_kept_in_one_form():
    params = BeamSearchParams(np.int64(2), np.int32(3), length_penalty=1)
    assert params == BeamSearchParams(2, 3, ignore_eos=False, length_penalty=1.0)
    kept = [type(getattr(params, field.name)) for field in dataclasses.fields(params)]
    assert kept == [int, int, bool, float]


@pytest.mark.parametrize("length_penalty", [-10, 10])
def test_every_length_penalty_that_is_allowed_can_rank_the_longest_of_texts(length_penalty):
    longest = 10**7
    assert 0 < float(longest) ** BeamSearchParams(2, longest, length_penalty=length_penalty).length_penalty < INF


def test_lists_are_own_copies_and_fields_cannot_be_set():
    stop, bias = ["a"], {1: 1.0}
    params = SamplingParams(stop=stop, logit_bias=bias)
    stop.append("b")
    bias[2] = 2.0
    assert (params.stop, params.logit_bias) == (["a"], {1: 1.0})
    copy = params.clone()
    assert copy == params
    copy.stop.append("c")
    assert params.stop == ["a"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.temperature = 0.5


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"stop_token_ids": [100]}, "stop_token_ids"),
        ({"allowed_token_ids": [5, 100]}, "allowed_token_ids"),
        ({"logit_bias": {100: 1.0}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"logprobs": -1}, "logprobs"),
    ],
    ids=str,
)
def test_what_only_the_model_can_tell_is_refused_at_request_time(params, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        SamplingParams(**params).check_vocabulary(vocab_size=100, max_logprobs=20)


def test_all_log_probabilities_may_be_asked_for_where_there_is_no_limit():
    SamplingParams(logprobs=-1, prompt_logprobs=100).check_vocabulary(vocab_size=100, max_logprobs=-1)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.binary(max_size=2))
JUNK = st.one_of(
    SCALARS,
    st.lists(SCALARS, max_size=3),
    st.dictionaries(st.one_of(st.integers(), st.text(max_size=1)), SCALARS, max_size=2),
    st.complex_numbers(),
    st.builds(object),
)


@given(st.dictionaries(st.sampled_from([*VLLM_DEFAULTS, *ONLY_HERE]), JUNK, max_size=4))
@pytest.mark.filterwarnings("ignore:temperature")
def test_whatever_is_given_it_is_taken_or_refused_with_a_value_error(junk):
    try:
        params = SamplingParams(**junk)
    except ValueError:
        return
    assert params.clone() == params
