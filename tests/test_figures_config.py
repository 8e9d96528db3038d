"""What chapters 00 and 01 draw and ask about waiting and blocks is what the engine did."""

import re
from itertools import pairwise

import pytest

from folovllm import SamplingParams
from folovllm.course.exercises.config.seats_needed import seats_needed_solution
from folovllm.course.figures.config import plot_config_layers
from folovllm.course.figures.kv_blocks import kv_use, plot_keys_and_values, plot_kv_use, plot_shared_blocks
from folovllm.course.figures.start import plot_reading, show_tokens
from folovllm.course.figures.waits import plot_step_times, plot_turns, step_ms, turns_of
from folovllm.course.record import recorded
from tests.tiny_models import tiny_llm

MAX_TOKENS = 4


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


def ask(llm, names, **settings):
    """Give every name a prompt of its own; return the engine with its record."""
    engine = llm.with_settings(record_history=True, **settings)
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
    for i, name in enumerate(names):
        engine.llm_engine.add_request(name, {"prompt_token_ids": [5 + i, 6, 7]}, params)
    while engine.llm_engine.has_unfinished_requests():
        engine.llm_engine.step()
    return engine


def first_token(engine, name):
    return next(
        step.step + 1
        for step in recorded(engine)
        for seq in step.sequences
        if seq.request_id == name and seq.num_output_tokens
    )


def test_who_sits_second_waits_until_the_first_is_done(llm):
    engine = ask(llm, ("Bo", "Anna"), max_num_seqs=1)
    bo, anna = turns_of(engine).values()
    seconds = [step_ms(step) / 1000 for step in recorded(engine)]
    assert [kind for kind, _, _ in bo.bars] == ["the prompt is read", "the answer is being written"]
    assert [kind for kind, _, _ in anna.bars] == ["waits", "the prompt is read", "the answer is being written"]
    assert anna.longest_wait() == pytest.approx((0, sum(seconds[: MAX_TOKENS + 1])))
    assert len(bo.tokens) == len(anna.tokens) == MAX_TOKENS
    assert "Anna sees nothing new for" in plot_turns({"one seat": engine}, watch="Anna").alt


def test_a_turn_without_waiting_has_its_longest_wait_between_two_tokens_or_before_the_first(llm):
    [anna] = turns_of(ask(llm, ("Anna",))).values()
    start, end = anna.longest_wait()
    moments = [0.0, *anna.tokens]
    assert end - start == pytest.approx(max(b - a for a, b in pairwise(moments)))


def test_time_counts_from_the_arrival_of_who_comes_late(llm):
    engine = llm.with_settings(record_history=True)
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, ignore_eos=True)
    engine.llm_engine.add_request("Anna", {"prompt_token_ids": [5, 6, 7]}, params)
    engine.llm_engine.step()
    engine.llm_engine.add_request("Bo", {"prompt_token_ids": [6, 6, 7]}, params)
    while engine.llm_engine.has_unfinished_requests():
        engine.llm_engine.step()
    anna, bo = turns_of(engine, late="Bo").values()
    first, second = (step_ms(step) / 1000 for step in recorded(engine)[:2])
    assert anna.bars[0][1] == pytest.approx(-first)
    assert bo.first_wait() == pytest.approx((0, second))
    assert anna.longest_wait()[0] >= 0
    assert "Bo has the first token after" in plot_turns({"two": engine}, watch="Anna", late="Bo").alt


def test_step_times_are_told_for_every_number_of_sequences(llm):
    rounds = {seats: [ask(llm, "ABCD"[:seats], max_num_seqs=seats)] * 2 for seats in (1, 2, 4)}
    image = plot_step_times(rounds)
    assert all(f"{seats} in a step" in image.alt for seats in (1, 2, 4))


@pytest.mark.parametrize(("num_readers", "max_steps"), [(8, 1), (8, 4), (8, 5), (7, 9), (5, 100), (1, 3)])
def test_the_seats_that_are_needed_are_the_fewest_that_the_engine_needs(llm, num_readers, max_steps):
    names = [str(i) for i in range(num_readers)]
    seats = seats_needed_solution(num_readers, MAX_TOKENS, max_steps)
    assert first_token(ask(llm, names, max_num_seqs=seats), names[-1]) <= max_steps
    if seats > 1:
        assert first_token(ask(llm, names, max_num_seqs=seats - 1), names[-1]) > max_steps


def test_two_readers_with_one_beginning_hold_the_same_blocks(llm):
    image = plot_shared_blocks(llm, {"Anna": "abcdefgh and more", "Bo": "abcdefgh or less"})
    assert "both hold [0, 1, 2]" in image.alt or "both hold [0, 1]" in image.alt


def test_what_a_token_leaves_is_counted(llm):
    spec = llm.llm_engine.attention_spec
    alt = plot_keys_and_values(llm).alt
    assert f"in each of {spec.num_layers} layers a key and a value" in alt
    assert f"{spec.num_kv_heads} heads of {spec.head_dim} numbers" in alt


def test_the_use_of_blocks_is_told_for_every_engine(llm):
    engine = ask(llm, ("Anna", "Bo"), block_size=4)
    held, filled = kv_use(engine)
    assert f"in step {MAX_TOKENS} {filled[-1]} of {held[-1]} places are filled" in plot_kv_use({"four": engine}).alt


def test_the_last_step_counts_although_its_blocks_are_given_back(llm):
    """A prompt of 3 and 4 more tokens, of which the last is never read: 6 places for each of two."""
    assert kv_use(ask(llm, ("Anna", "Bo"), block_size=4)) == ([8, 8, 16, 16], [6, 8, 10, 12])
    assert kv_use(ask(llm, ("Anna",), block_size=5)) == ([5, 5, 5, 10], [3, 4, 5, 6])


def test_the_layers_show_the_settings_and_who_reads_them(llm):
    alt = plot_config_layers(llm.llm_engine.config, {"swap_space": "too much"}).alt
    assert "CacheConfig for the block manager: block_size = " in alt
    assert "SchedulerConfig for the scheduler: max_num_batched_tokens = " in alt
    assert alt.count("too much") == 1


def test_reading_begins_with_the_whole_prompt(llm):
    prompt = "abc"
    length = len(llm.get_tokenizer()(prompt)["input_ids"])
    assert f"Step 1 reads the {length} tokens of the prompt" in plot_reading(llm, prompt, max_tokens=3).alt


def test_tokens_cover_all_bytes_of_a_text(llm):
    """Every row of the table has as many columns as the text has bytes."""
    text = "ab 法"
    rows = re.findall(r"<tr>(.*?)</tr>", show_tokens(llm, [text]).data)
    columns = [sum(map(int, re.findall(r'colspan="(\d+)"', row))) for row in rows]
    assert columns == [len(text.encode())] * 2


def test_dashed_cells_are_explained_where_there_are_some(llm):
    assert "dashed: a part of a character" in show_tokens(llm, ["法"]).data
    assert "dashed: a part" not in show_tokens(llm, ["ab"]).data
