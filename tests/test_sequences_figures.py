"""The pictures of chapter 03 say what the engine's table, tables of blocks and beams are."""

import pytest

from folovllm import BeamSearchParams, SamplingParams
from folovllm.course.figures.beams import plot_beams, plot_race
from folovllm.course.figures.sequences import plot_block_tables, plot_request
from folovllm.course.figures.states import plot_states
from folovllm.request import ALLOWED_TRANSITIONS
from tests.tiny_models import tiny_llm

PROMPT = {"prompt_token_ids": [5, 6, 7, 8, 9]}
THREE = SamplingParams(n=3, seed=2, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def llm():
    return tiny_llm(block_size=4, record_history=True)


def test_every_move_of_the_table_is_drawn_with_its_reason():
    words = plot_states().alt.partition("reasons. ")[2].rstrip(".")
    drawn = dict(move.split(": ", 1) for move in words.split("; "))
    assert set(drawn) == {f"{old} to {new}" for old, following in ALLOWED_TRANSITIONS.items() for new in following}
    assert all(drawn.values())


def test_the_layers_are_those_of_the_live_request(llm):
    request = llm.llm_engine.add_request("bo", PROMPT, THREE)
    for _ in range(3):
        llm.llm_engine.step()
    words = plot_request(llm, request).alt
    for seq in request.sequences:
        assert f"sequence {seq.seq_id}, running, seed {seq.seed}, blocks {seq.block_ids}" in words
    llm.llm_engine.abort_request("bo")
    llm.llm_engine.history.clear()


def test_the_frames_show_the_recorded_tables(llm):
    [output] = llm.generate([PROMPT], THREE, use_tqdm=False)
    words = plot_block_tables(llm, output, [0, 1]).alt
    for step in llm.llm_engine.history.steps[:2]:
        assert all(f"{seq.seq_id} {list(seq.block_table)}" in words for seq in step.sequences)
    assert words.count("blocks copied: 2") == 1
    llm.llm_engine.history.clear()


def test_the_race_ends_with_both_sums_and_the_tree_with_the_winners(llm):
    [greedy] = llm.generate([PROMPT], SamplingParams(temperature=0, max_tokens=4, logprobs=1), use_tqdm=False)
    search = llm.llm_engine.add_request("beams", PROMPT, BeamSearchParams(beam_width=3, max_tokens=4, ignore_eos=True))
    alive = []
    while llm.llm_engine.has_unfinished_requests():
        llm.llm_engine.step()
        alive.append(list(search.sequences))
    best = alive[-1][0]
    words = plot_race(llm, greedy.outputs[0], best).alt
    assert f"{greedy.outputs[0].cumulative_logprob:.2f}; best beam" in words
    assert words.endswith(f"{best.cumulative_logprob:.2f}.")
    assert f"step {len(alive) - 1}: " in plot_beams(llm, alive, greedy.outputs[0].token_ids).alt
