"""Tokens that the tokenizer knows and the model does not, and tokens that a model reads but never writes.

The oracle is HuggingFace's ``generate`` and forward pass over the same model.
"""

import copy

import pytest
import torch
from torch import nn

from folovllm import LLM, BeamSearchParams, SamplingParams
from folovllm.models.probe import UnsupportedModelError
from folovllm.sampling.logits_processors import (
    Allowed,
    Biases,
    Penalties,
    apply_allowed_token_ids,
    apply_bans,
    apply_logit_bias,
    apply_penalties,
    find_places,
)
from tests.engine_checks import assert_at_rest
from tests.tiny_models import VOCAB_SIZE, hf_greedy, tiny_llm, tiny_model
from tests.tiny_tokenizers import byte_level_tokenizer

GREEDY = SamplingParams(temperature=0, max_tokens=4)
TOOL = VOCAB_SIZE  # the id that the added token gets
NUM_LOGITS = 300
READ_ONLY = 310


def with_tool_token():
    tokenizer = copy.deepcopy(byte_level_tokenizer())
    assert tokenizer.add_tokens(["<tool>"], special_tokens=True) == 1
    assert tokenizer("<tool>")["input_ids"] == [TOOL]
    return tokenizer


@pytest.fixture(scope="module")
def llm() -> LLM:
    return tiny_llm(tiny_model(num_hidden_layers=1), with_tool_token())


ENTRANCES = {
    "text": lambda llm: llm.generate("hi <tool>", GREEDY, use_tqdm=False),
    "a text among good ones": lambda llm: llm.generate(["hi", "<tool>"], GREEDY, use_tqdm=False),
    "a dict": lambda llm: llm.generate({"prompt": "<tool> hi"}, GREEDY, use_tqdm=False),
    "a stream": lambda llm: next(llm.stream("<tool>", GREEDY)),
    "beams": lambda llm: llm.beam_search("<tool>", BeamSearchParams(2, 2), use_tqdm=False),
    "chat": lambda llm: llm.chat([{"role": "user", "content": "<tool>"}], GREEDY, use_tqdm=False),
    "a template": lambda llm: llm.chat_prompt([{"role": "user", "content": ""}], chat_template="{{ '<tool>' }}"),
    "logits": lambda llm: llm.compute_logits("<tool>"),
    "the engine": lambda llm: llm.llm_engine.add_request("a", "<tool>", GREEDY),
}


@pytest.mark.parametrize("enter", ENTRANCES.values(), ids=ENTRANCES)
def test_text_with_a_token_that_the_model_lacks_is_refused_at_the_door(llm, enter):
    with pytest.raises(ValueError, match=r"prompt must be .* ids 0 to 319, but its '<tool>' is the tokenizer's id 320"):
        enter(llm)
    assert_at_rest(llm)


@pytest.mark.parametrize("token_ids", [[5, TOOL], (TOOL,), range(TOOL, TOOL + 1), torch.tensor([TOOL]), [-1]], ids=str)
def test_so_are_its_ids_in_any_container(llm, token_ids):
    for prompt in (token_ids, {"prompt_token_ids": token_ids}):
        with pytest.raises(ValueError, match=r"prompt_token_ids must be ints from 0 to 319, got (320|-1)"):
            llm.generate(prompt, GREEDY, use_tqdm=False)
    assert_at_rest(llm)


def test_a_bad_word_that_the_model_cannot_write_forbids_nothing(llm):
    expected = hf_greedy(llm.llm_engine.model_runner.model, [5, 6], 4)
    for words in (["<tool>"], ["a<tool>"]):
        params = SamplingParams(temperature=0, max_tokens=4, bad_words=words)
        assert llm.generate([5, 6], params, use_tqdm=False)[0].outputs[0].token_ids == expected


# -- fewer logits than embeddings, as in Mllama, Moshi and CPM-Ant -----------------------------------------


@pytest.fixture(scope="module", params=["folovllm", "transformers"])
def narrow(request) -> LLM:
    model = tiny_model()
    model.lm_head = nn.Linear(64, NUM_LOGITS, bias=False)
    torch.manual_seed(1)
    nn.init.normal_(model.lm_head.weight, std=0.2)
    return tiny_llm(model, model_impl=request.param, max_logprobs=-1)


PROMPT = [5, READ_ONLY, 6, READ_ONLY, 6]


def greedy(llm: LLM, prompt=PROMPT, **params) -> list[int]:
    params = SamplingParams(**{"temperature": 0, "max_tokens": 12, "ignore_eos": True} | params)
    return llm.generate([prompt, [7, 8]], params, use_tqdm=False)[0].outputs[0].token_ids


def hf_logits(llm: LLM, token_ids: list[int]) -> torch.Tensor:
    model = llm.llm_engine.model_runner.model
    paged = model.config._attn_implementation
    model.set_attn_implementation("sdpa")
    try:
        with torch.inference_mode():
            return model(torch.tensor([token_ids])).logits[0]
    finally:
        model.set_attn_implementation(paged)


def test_a_token_without_a_logit_is_read_like_any_other(narrow):
    expected = hf_greedy(narrow.llm_engine.model_runner.model, PROMPT, 12)
    got = greedy(narrow, ignore_eos=False)
    assert got == expected


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 1.5}, {"frequency_penalty": 1.0}, {"presence_penalty": 2.0}]
)
def test_penalties_pass_over_it(narrow, penalty):
    [(name, value)] = penalty.items()
    said = list(PROMPT)
    for _ in range(12):
        logits = hf_logits(narrow, said)[-1].clone()
        if name == "repetition_penalty":
            for seen in {token for token in said if token < NUM_LOGITS}:
                logits[seen] = logits[seen] / value if logits[seen] > 0 else logits[seen] * value
        else:
            output = said[len(PROMPT) :]
            for seen in set(output):
                logits[seen] -= value * (output.count(seen) if name == "frequency_penalty" else 1)
        said.append(int(logits.argmax()))
    assert greedy(narrow, **penalty) == said[len(PROMPT) :]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"logit_bias": {READ_ONLY: 1.0}}, "logit_bias .* 300, got 310"),
        ({"allowed_token_ids": [5, READ_ONLY]}, "allowed_token_ids .* 300, got 310"),
        ({"stop_token_ids": [READ_ONLY]}, "stop_token_ids .* 300, got 310"),
        ({"prompt_logprobs": 0}, "prompt_logprobs .* 300 logits, got token 310"),
    ],
    ids=str,
)
def test_what_would_need_its_logit_is_refused(narrow, params, message):
    with pytest.raises(ValueError, match=message):
        greedy(narrow, **params)
    assert_at_rest(narrow)


def test_the_first_prompt_token_is_not_judged_and_needs_no_logit(narrow):
    token_ids = [READ_ONLY, 5, 6]
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=-1, logprobs=-1)
    (output,) = narrow.generate([token_ids], params, use_tqdm=False)
    expected = hf_logits(narrow, token_ids).log_softmax(-1)
    for position, entry in enumerate(output.prompt_logprobs[1:]):
        assert len(entry) == NUM_LOGITS
        for token_id, logprob in entry.items():
            assert logprob.logprob == pytest.approx(float(expected[position, token_id]), abs=1e-4)
    assert len(output.outputs[0].logprobs[0]) == NUM_LOGITS


def test_a_draft_may_hold_it(narrow):
    """Whenever 6 comes, prompt lookup guesses what followed it in the prompt: the token without a logit."""
    params = {"allowed_token_ids": [6, 7], "repetition_penalty": 1.2, "frequency_penalty": 0.1}
    prompt = [6, READ_ONLY, 6, READ_ONLY, 6]
    drafts = narrow.with_settings(num_speculative_tokens=2, record_history=True, swap_space=0.001)
    without = narrow.with_settings(num_speculative_tokens=0, swap_space=0.001)
    assert greedy(drafts, prompt, **params) == greedy(without, prompt, **params)
    assert sum(seq.num_draft_tokens for step in drafts.llm_engine.history.steps for seq in step.sequences) > 0


@pytest.mark.parametrize("eos_token_id", [-1, READ_ONLY, 2**40, [-1, 999]], ids=str)
def test_an_eos_that_cannot_be_written_is_none(eos_token_id):
    model = tiny_model(num_hidden_layers=1)
    model.lm_head = nn.Linear(64, NUM_LOGITS, bias=False)
    model.generation_config.eos_token_id = eos_token_id
    llm = tiny_llm(model)
    expected = llm.generate([[5], [6]], GREEDY, use_tqdm=False)
    held = llm.generate([[5], [6]], SamplingParams(temperature=0, max_tokens=4, min_tokens=4), use_tqdm=False)
    assert [output.outputs[0].token_ids for output in held] == [output.outputs[0].token_ids for output in expected]
    for row in (0, 1):  # a token "-1" of one row would be the last of the row before
        last = SamplingParams(temperature=0, max_tokens=1, min_tokens=1, logit_bias={NUM_LOGITS - 1: 100.0})
        assert llm.generate([[5], [6]], last, use_tqdm=False)[row].outputs[0].token_ids == [NUM_LOGITS - 1]


def test_a_model_that_writes_more_than_it_reads_is_refused():
    model = tiny_model(num_hidden_layers=1)
    model.lm_head = nn.Linear(64, VOCAB_SIZE + 1, bias=False)
    with pytest.raises(UnsupportedModelError, match="logits for 321 tokens but embeddings for 320"):
        tiny_llm(model)


@pytest.mark.parametrize("beyond", [4, 5, 99, -1, -4])
def test_an_id_beyond_its_row_changes_no_other_row(beyond):
    logits, off = torch.arange(12.0).reshape(3, 4), torch.ones(3)
    apply_bans(logits, find_places([[beyond]] * 3, 4))
    apply_logit_bias(logits, Biases.of([{beyond: 5.0}] * 3, 4))
    apply_penalties(logits, Penalties.of([[beyond]] * 3, [[beyond]] * 3, 4, off * 2, off, off))
    assert logits.equal(torch.arange(12.0).reshape(3, 4))
    apply_allowed_token_ids(logits, Allowed.of([[beyond, 1], None, [2]], 4))
    assert logits.isfinite().tolist() == [[False, True, False, False], [True] * 4, [False, False, True, False]]
