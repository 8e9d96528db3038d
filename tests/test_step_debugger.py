"""What the debugger says of a step is what the engine did in it."""

import pytest

from folovllm import SamplingParams
from folovllm.course.widgets.step_debugger import StepDebugger
from tests.tiny_models import VOCAB_SIZE, tiny_llm

PROMPT = "abc"


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


@pytest.fixture
def debugger(llm):
    return StepDebugger(llm, PROMPT, max_tokens=3)


def test_it_takes_the_prompt_through_the_engine_and_gets_what_generate_gives(llm, debugger):
    params = SamplingParams(temperature=0, max_tokens=3)
    [expected] = llm.with_settings().generate(PROMPT, params, use_tqdm=False)
    length = len(expected.prompt_token_ids)
    assert dict(debugger.hops)["tokenizer"] == f"{length} token ids: {expected.prompt_token_ids}"
    for count, token in enumerate(expected.outputs[0].token_ids):
        debugger.step()
        hops = dict(debugger.hops)
        tokens = length if count == 0 else 1
        assert hops["model"] == f"token_ids [{tokens}] -> logits [1, {VOCAB_SIZE}]"
        assert hops["sampler"].startswith(f"token {token}, ")
        assert f"{count + 1} output tokens" in hops["sequence"]
        assert ("prefill" if count == 0 else "decode") in debugger.status.value
    assert dict(debugger.hops)["detokenizer"] == repr(expected.outputs[0].text)
    assert "Ended: length" in debugger.status.value


def test_a_step_after_the_end_and_a_new_prompt_begin_again(llm, debugger):
    for _ in range(4):
        debugger.step()
    assert "Nothing is computed yet" in debugger.status.value
    debugger.step()
    debugger.prompt.value = "xyz"
    assert "Nothing is computed yet" in debugger.summary()
    debugger.prompt.value = ""
    assert "prompt must hold at least one token" in debugger.status.value
    assert not debugger.llm.llm_engine.has_unfinished_requests()


def test_it_and_others_do_not_disturb_each_other(llm, debugger):
    params = SamplingParams(temperature=0, max_tokens=5)
    [alone] = llm.with_settings().generate("hello", params, use_tqdm=False)
    debugger.step()
    [beside] = llm.generate("hello", params, use_tqdm=False)
    assert beside.outputs[0].token_ids == alone.outputs[0].token_ids
    before = debugger.summary()
    debugger.step()
    assert "Step 2: decode" in debugger.status.value
    assert debugger.summary() != before


def test_a_step_without_a_request_changes_nothing(debugger):
    debugger.prompt.value = ""
    before = debugger.status.value
    debugger.step()
    assert debugger.status.value == before


def test_a_step_that_fails_is_named_and_the_next_one_begins_again(debugger, monkeypatch):
    def fail(step):
        raise MemoryError("no room")

    runner = debugger.llm.llm_engine.model_runner
    monkeypatch.setattr(type(runner), "execute", lambda self, step: fail(step))
    debugger.step()
    assert "Step 1 failed: MemoryError: no room. Ended: error." in debugger.status.value
    monkeypatch.undo()
    debugger.step()
    assert "Nothing is computed yet" in debugger.status.value
    debugger.step()
    assert "Step 1: prefill" in debugger.status.value
