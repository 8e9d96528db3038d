"""What the debugger says of a step is what the engine did in it."""

import re

import pytest

from folovllm import SamplingParams
from folovllm.course.flow_diagram import PARTS
from folovllm.course.widgets.step_debugger import ARRIVALS, StepDebugger
from tests.tiny_models import VOCAB_SIZE, tiny_llm
from tests.translation_rules import half_width_marks

PROMPT = "abc"


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


@pytest.fixture
def debugger(llm):
    return StepDebugger(llm, PROMPT, max_tokens=3)


def lit_part(debugger):
    """Return the part whose row of the table is lit, and the one that the map's words name."""
    row = re.search(r'<tr class=lit><th scope="row">([^<]+)<', debugger.picture.value)[1]
    title = re.search(r"You are here: ([^.]+)\.", debugger.picture.value)[1]
    assert PARTS[row].title == title
    return row


# -- one request -----------------------------------------------------------------------------------------


def test_it_takes_the_prompt_through_the_engine_and_gets_what_generate_gives(llm, debugger):
    params = SamplingParams(temperature=0, max_tokens=3)
    [expected] = llm.with_settings().generate(PROMPT, params, use_tqdm=False)
    length = len(expected.prompt_token_ids)
    assert dict(debugger.hops)["tokenizer"] == f"{length} token ids: {expected.prompt_token_ids}"
    for count, token in enumerate(expected.outputs[0].token_ids):
        debugger.step()
        hops = dict(debugger.hops)
        tokens = length if count == 0 else 1
        assert hops["model"] == f"{tokens} id{'s' * (tokens > 1)} -> 1 row of {VOCAB_SIZE} logits"
        assert hops["sampler"].startswith(f"token {token}, ")
        assert f"{count + 1} output token" in hops["sequence"]
        assert ("prefill" if count == 0 else "decode") in debugger.status.value
    assert dict(debugger.hops)["detokenizer"] == repr(expected.outputs[0].text)
    assert "Ended: length. Press Begin again." in debugger.status.value


def test_the_last_step_has_its_position_and_its_blocks(debugger):
    for _ in range(3):
        debugger.step()
    hops, length = dict(debugger.hops), len(PROMPT)
    assert hops["scheduler"] == f"1 token, position {length + 1}"
    assert hops["KV blocks"] == f"[0], {length + 2} tokens are in them now; now they are given back"
    assert hops["sequence"] == "finished_length_capped, 3 output tokens"
    assert hops["output"] == "finished, finish_reason 'length'"


def test_a_step_after_the_end_and_a_new_prompt_begin_again(debugger):
    for _ in range(4):
        debugger.step()
    assert "Nothing is computed yet" in debugger.status.value
    assert len(debugger.moments) == 1
    debugger.step()
    debugger.prompt.value = "xyz"
    assert "Nothing is computed yet" in debugger.summary()


def test_a_refused_prompt_leaves_no_picture_beside_the_error(debugger):
    debugger.step()
    debugger.prompt.value = ""
    assert "prompt must hold at least one token" in debugger.status.value
    assert debugger.picture.value == ""
    assert debugger.hops == []
    assert not debugger.llm.llm_engine.has_unfinished_requests()
    before = debugger.status.value
    for button in debugger.buttons.values():
        button.click()
        assert debugger.status.value == before
    debugger.prompt.value = PROMPT
    assert "Nothing is computed yet" in debugger.status.value
    assert "<img" in debugger.picture.value


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


def test_a_step_that_fails_is_named_and_the_next_one_begins_again(debugger, monkeypatch):
    def fail(step):
        raise MemoryError("no room")

    runner = debugger.llm.llm_engine.model_runner
    monkeypatch.setattr(type(runner), "execute", lambda self, step: fail(step))
    debugger.step()
    assert "Step 1 failed: MemoryError: no room. Ended: error." in debugger.status.value
    assert debugger.picture.value == ""
    monkeypatch.undo()
    debugger.step()
    assert "Nothing is computed yet" in debugger.status.value
    debugger.step()
    assert "Step 1: prefill" in debugger.status.value


def test_a_prompt_in_pieces_draws_nothing_until_it_is_read(llm, monkeypatch):
    chunked = {"max_num_batched_tokens": 4, "max_num_seqs": 4, "enable_chunked_prefill": True}
    make = type(llm).with_settings
    monkeypatch.setattr(type(llm), "with_settings", lambda self, **settings: make(self, **settings, **chunked))
    debugger = StepDebugger(llm, "abcdefgh", max_tokens=2)
    debugger.step()
    assert dict(debugger.hops)["sampler"] == "nothing to draw yet: the prompt is not read to its end"
    debugger.step()
    assert dict(debugger.hops)["sampler"].startswith("token ")
    assert dict(debugger.hops)["scheduler"] == "4 tokens, positions 4 to 7"


# -- the prefix cache ------------------------------------------------------------------------------------


def test_begin_again_names_the_prefix_cache_where_it_hits(llm):
    debugger = StepDebugger(llm, "abcdefgh", max_tokens=2, block_size=4)
    debugger.step()
    assert "prefix cache" not in debugger.summary()
    debugger.buttons["Begin again"].click()
    assert "The prefix cache still holds the first 4 of its tokens." in debugger.status.value
    assert dict(debugger.hops)["request"] == "1 sequence, waiting; the prefix cache holds its first 4 tokens"
    debugger.step()
    assert "4 tokens of A&#x27;s prompt found in the prefix cache" in debugger.status.value
    expected = "4 tokens, positions 4 to 7; positions 0 to 3 are found in the prefix cache"
    assert dict(debugger.hops)["scheduler"] == expected


# -- users who arrive ------------------------------------------------------------------------------------


def test_a_user_who_arrives_runs_beside_the_first_and_gets_the_same_text(llm):
    debugger = StepDebugger(llm, PROMPT, max_tokens=3, arrivals=("xyz",))
    debugger.step()
    debugger.buttons["A user arrives"].click()
    assert "B asks &#x27;xyz&#x27;" in debugger.status.value
    assert dict(debugger.hops)["request"] == "B: 1 sequence, waiting"
    debugger.step()
    assert "Step 2: A decode, B prefill; 4 tokens in one pass" in debugger.status.value
    hops = dict(debugger.hops)
    assert hops["scheduler"] == "A: 1 token, position 3\nB: 3 tokens, positions 0 to 2"
    assert hops["model"] == f"4 ids -> 2 rows of {VOCAB_SIZE} logits"
    assert "\n             B: 3 tokens, positions 0 to 2\n" in debugger.summary()
    debugger.step()
    assert "Ended: A length." in debugger.status.value
    assert "Begin again" not in debugger.status.value
    debugger.step()
    assert "Ended: B length. Press Begin again." in debugger.status.value
    params = SamplingParams(temperature=0, max_tokens=3)
    [alone] = llm.with_settings().generate("xyz", params, use_tqdm=False)
    assert dict(debugger.hops)["detokenizer"] == f"B: {alone.outputs[0].text!r}"


def test_what_it_says_of_several_in_chinese_has_chinese_punctuation(llm, monkeypatch):
    monkeypatch.setenv("FOLOVLLM_LANG", "zh")
    debugger = StepDebugger(llm, PROMPT, max_tokens=2)
    debugger.step()
    debugger.arrive()
    said = []
    for _ in range(3):
        debugger.step()
        said += [re.sub("<[^>]*>", "\n", debugger.status.value), debugger.summary()]
    assert "A decode、B prefill；" in said[0]
    assert [mark for each in said for mark in half_width_marks(each)] == []


def test_many_may_arrive_also_after_the_end(debugger):
    for count in range(4):
        debugger.arrive()
        assert repr(ARRIVALS[count % len(ARRIVALS)]) in debugger.summary()
    debugger.step()
    assert "5 tokens" not in debugger.status.value
    assert "E prefill" in debugger.status.value
    for _ in range(2):
        debugger.step()
    assert "Press Begin again" in debugger.status.value
    debugger.arrive()
    assert [moment.sentence[:7] for moment in debugger.moments] == ["Nothing", "A user "]


# -- hops and history ----------------------------------------------------------------------------------------


def test_hop_by_hop_lights_every_part_in_the_order_of_the_map(debugger):
    lit = [lit_part(debugger)]
    while len(lit) < len(PARTS):
        debugger.buttons["Next hop"].click()
        lit.append(lit_part(debugger))
        assert f"Here: {lit[-1]}." in debugger.status.value
    assert sorted(lit) == sorted(PARTS)
    assert lit[:3] == ["tokenizer", "request", "scheduler"]
    assert lit[-1] == "output"
    debugger.next_hop()
    assert lit_part(debugger) == "scheduler"
    assert "Step 2: decode" in debugger.status.value


def test_every_part_has_a_picture_of_its_own(debugger):
    pictures = set()
    for _ in PARTS:
        pictures.add(re.search(r'src="([^"]+)"', debugger.picture.value)[1])
        debugger.next_hop()
    assert len(pictures) == len(PARTS)


def test_one_can_go_back_and_forward_and_then_on(debugger):
    debugger.step()
    first = debugger.summary()
    debugger.step()
    second = debugger.summary()
    assert debugger.history.max == 2
    debugger.history.value = 1
    assert debugger.summary() == first
    assert "You look back: 1 later moment." in debugger.status.value
    debugger.step()  # the second again: nothing is computed
    assert debugger.summary() == second
    assert len(debugger.moments) == 3
    debugger.step()
    assert "Step 3" in debugger.status.value
    assert debugger.history.value == debugger.history.max == 3
    debugger.restart()
    assert debugger.history.value == debugger.history.max == 0


def test_a_user_who_arrives_ends_a_look_back(debugger):
    debugger.step()
    debugger.history.value = 0
    debugger.arrive()
    assert "B asks" in debugger.status.value
    assert debugger.history.value == debugger.history.max == 2
