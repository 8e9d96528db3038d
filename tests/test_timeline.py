"""The timeline shows what the record says, which is what the block manager and the statuses were."""

import pytest

from folovllm import SamplingParams
from folovllm.course.figures.config import kv_use
from folovllm.course.record import phase_of, recorded
from folovllm.course.widgets.timeline import Timeline, activity, plot_timeline, sentence
from folovllm.request import SequenceStatus
from tests.tiny_models import tiny_llm

PROMPTS = [{"prompt_token_ids": [5, 6, 7, 8, 9, 10]}, {"prompt_token_ids": [11, 12]}, {"prompt_token_ids": [13] * 5}]


@pytest.fixture(scope="module")
def llm():
    """Three requests, six sequences, and blocks for fewer: the last one is swapped."""
    made = tiny_llm(block_size=4, num_gpu_blocks_override=18, record_history=True)
    params = [SamplingParams(n=n, seed=n, max_tokens=12, ignore_eos=True) for n in (3, 1, 2)]
    made.generate(PROMPTS, params, use_tqdm=False)
    return made


@pytest.fixture
def timeline(llm):
    return Timeline(llm)


def test_every_step_can_be_shown_and_says_what_the_record_says(llm, timeline):
    shown = set()
    for number, step in enumerate(llm.llm_engine.history.steps):
        timeline.step.value = number
        assert sentence(step) in timeline.status.value
        assert sentence(step) in timeline.summary()
        for seq in step.sequences:
            assert f"{seq.seq_id:6} {seq.status}" in timeline.summary()
        shown.add(timeline.picture.value)
    assert len(shown) == len(timeline.steps)


def test_the_sentence_counts_blocks_once_and_shared_ones_by_their_holders(llm):
    pool = llm.llm_engine.config.cache_config.num_gpu_blocks
    for step in llm.llm_engine.history.steps:
        tables = [seq.block_table for seq in step.sequences if seq.status != SequenceStatus.SWAPPED]
        held = {block for table in tables for block in table}
        shared = {block for block in held if sum(block in table for table in tables) > 1}
        assert f"{len(held)} blocks held, {len(shared)} of them shared" in sentence(step)
        assert len(held) + step.num_free_blocks == pool


def test_what_a_sequence_does_follows_from_its_tokens(llm):
    steps = llm.llm_engine.history.steps
    first = {seq.seq_id: activity(seq) for seq in steps[0].sequences}
    assert first["0-0"] == "prefill"
    assert first["0-1"] == first["0-2"] == "stands still"
    assert {activity(seq) for seq in steps[1].sequences} == {"decode"}
    assert "swapped" in {activity(seq) for step in steps for seq in step.sequences}
    decoded = sum(phase_of(seq) == "decode" for step in steps for seq in step.sequences)
    assert decoded == 6 * 11  # the first of 12 tokens comes with the prompt


def test_kv_use_counts_the_places_in_held_blocks(llm):
    held, filled = kv_use(llm)
    assert all(0 < fill <= hold for fill, hold in zip(filled, held, strict=True))
    assert held[0] == 4 * (2 + 1 + 2)
    assert filled[0] == 6 + 2 + 5


def test_a_run_that_was_not_recorded_is_refused():
    with pytest.raises(ValueError, match="record_history=True"):
        recorded(tiny_llm())
    with pytest.raises(ValueError, match="no step yet"):
        Timeline(tiny_llm(record_history=True))


def test_the_static_figure_tells_its_first_and_last_step(llm):
    image = plot_timeline(llm)
    assert image.data.startswith(b"\x89PNG")
    assert sentence(llm.llm_engine.history.steps[-1]) in image.alt


def test_without_a_kernel_it_is_a_picture_and_a_sentence(timeline):
    bundle, metadata = timeline._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == timeline.summary()
    assert metadata["image/png"]["alt"] == timeline.summary()
