"""The timeline shows what the record says, which is what the block manager and the statuses were."""

import itertools
import re

import pytest
from matplotlib.transforms import Bbox

from folovllm import SamplingParams
from folovllm.course.figures.kv_blocks import kv_use
from folovllm.course.record import phase_of, recorded
from folovllm.course.run_story import TINTS, RunStory, letter_of
from folovllm.course.widgets.card import label
from folovllm.course.widgets.timeline import MAX_BLOCKS, Timeline, draw_run, plot_timeline
from folovllm.language import LANGUAGES, speaking
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


@pytest.fixture(scope="module")
def story(llm):
    return RunStory(llm)


@pytest.fixture
def timeline(llm):
    return Timeline(llm)


def owners_by_record(step, *, swapped):
    """Return who holds which block, straight from the record."""
    found = {}
    for seq in step.sequences:
        if (seq.status == SequenceStatus.SWAPPED) == swapped:
            for block in seq.block_table:
                found.setdefault(block, []).append(letter_of(int(seq.request_id)) + seq.seq_id[-1])
    return found


# -- who holds what ----------------------------------------------------------------------------------


def test_every_block_names_all_its_owners(story, llm):
    for number, step in enumerate(llm.llm_engine.history.steps):
        for blocks, swapped in ((story.device_blocks(number), False), (story.host_blocks(number), True)):
            shown = {block.number: list(block.owners) for block in blocks if block.owners}
            assert shown == owners_by_record(step, swapped=swapped)


def test_held_and_free_blocks_make_the_pool(story, llm):
    pool = llm.llm_engine.config.cache_config.num_gpu_blocks
    for number in range(len(story.steps)):
        held, shared, free = story.count(number)
        tables = owners_by_record(story.steps[number], swapped=False)
        assert (held, shared) == (len(tables), sum(len(owners) > 1 for owners in tables.values()))
        assert held + free == pool


def test_a_first_write_into_a_shared_block_is_shown_as_a_copy(story):
    origins = {block.number: block.origin for block in story.device_blocks(1) if block.origin}
    assert sorted(origins.values()) == ["copy of 1", "copy of 1", "copy of 4"]
    assert story.steps[1].blocks_copied == len(origins)
    assert all(block.origin in ("", "new") for block in story.device_blocks(0))


def test_copies_are_as_many_as_the_engine_made(story):
    for number, step in enumerate(story.steps):
        copies = [block for block in story.device_blocks(number) if block.origin.startswith("copy of")]
        assert len(copies) == step.blocks_copied


def test_moved_blocks_say_where_their_content_was(story):
    [out] = [number for number, step in enumerate(story.steps) if step.blocks_swapped_out]
    [back] = [number for number, step in enumerate(story.steps) if step.blocks_swapped_in]
    before = {block.number: block.owners for block in story.device_blocks(out - 1)}
    moved = [block for block in story.host_blocks(out) if block.owners]
    assert len(moved) == story.steps[out].blocks_swapped_out
    for block in moved:
        assert before[int(block.origin.removeprefix("from device "))] == block.owners
    returned = [block for block in story.device_blocks(back) if block.origin.startswith("from host ")]
    assert len(returned) == story.steps[back].blocks_swapped_in
    assert not any(block.owners for block in story.host_blocks(back))


def test_a_block_from_the_prefix_cache_is_found():
    llm = tiny_llm(block_size=4, record_history=True)
    prompt = {"prompt_token_ids": list(range(5, 15))}
    for _ in range(2):
        llm.generate(prompt, SamplingParams(max_tokens=2, ignore_eos=True), use_tqdm=False)
    story = RunStory(llm)
    [again] = [i for i, step in enumerate(story.steps) if step.sequences[0].request_id == "1"][:1]
    assert [block.origin for block in story.device_blocks(again) if block.owners].count("found") == 2
    assert story.in_words(again, "1-0") == "reads 2 tokens, 8 more are in the cache, gets token 1"


# -- why somebody gives way ----------------------------------------------------------------------------


def test_what_the_next_tokens_need_is_what_the_engine_then_takes(story):
    """Between two steps in which nobody comes, goes or moves, the free blocks fall by what was needed."""
    checked = 0
    for number in range(len(story.steps) - 1):
        now, after = story.steps[number], story.steps[number + 1]
        statuses = [[seq.status for seq in step.sequences] for step in (now, after)]
        if statuses[0] == statuses[1] and set(statuses[0]) <= {"running", "swapped"}:
            assert now.num_free_blocks - after.num_free_blocks == story.needed_next(number)
            checked += story.needed_next(number) > 0
    assert checked


def test_a_shortage_is_told_with_its_numbers(story):
    [short] = [number for number in range(len(story.steps)) if story.gave_way(number)]
    free, needed = story.steps[short - 1].num_free_blocks, story.needed_next(short - 1)
    assert needed > free
    said = f"This step needed {needed} new blocks and {free} were free: C moves to host memory."
    assert story.shortage(short) == said
    assert story.sentence(short).endswith(said)
    assert all(story.shortage(number) == "" for number in range(len(story.steps)) if number != short)


def test_a_single_sequence_that_gives_way_waits_and_is_read_again():
    llm = tiny_llm(block_size=4, num_gpu_blocks_override=7, record_history=True)
    prompts = [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [8, 9, 10]}]
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=14, ignore_eos=True), use_tqdm=False)
    story = RunStory(llm)
    short = next(number for number in range(len(story.steps)) if story.gave_way(number))
    assert story.shortage(short).endswith("B gives its blocks back.")
    assert story.in_words(short, "1-0") == "gives way: waits, and is computed again later"
    assert story.in_words(short + 1, "1-0") == "waits for its turn"
    told = [story.in_words(number, "1-0") for number in range(short + 1, len(story.steps))]
    assert "is back: 12 tokens are in the cache, gets token 11" in told


def test_without_a_cache_who_gave_way_is_read_again():
    llm = tiny_llm(block_size=4, num_gpu_blocks_override=7, record_history=True, enable_prefix_caching=False)
    prompts = [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [8, 9, 10]}]
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=14, ignore_eos=True), use_tqdm=False)
    story = RunStory(llm)
    told = [story.in_words(number, "1-0") for number in range(len(story.steps))]
    assert any(re.fullmatch(r"reads \d+ tokens again, then its newest, gets token \d+", each) for each in told)


@pytest.fixture(scope="module")
def evening_llm():
    """Chapter 03's evening by its lengths: C waits from step 7, B is swapped from step 8, A ends in step 11."""
    llm = tiny_llm(block_size=4, num_gpu_blocks_override=13, record_history=True)
    prompts = [{"prompt_token_ids": [5 + i] * length} for i, length in enumerate((6, 5, 2))]
    params = [SamplingParams(n=n, seed=n, max_tokens=12, ignore_eos=True) for n in (1, 3, 1)]
    llm.generate(prompts, params, use_tqdm=False)
    return llm


@pytest.fixture(scope="module")
def evening(evening_llm):
    return RunStory(evening_llm)


def test_what_a_swapped_one_needs_depends_on_whether_others_run(evening):
    assert evening.in_words(10, "1-0").endswith("it needs 10 free blocks (its own 7, and 1 per text, as others run)")
    assert evening.in_words(11, "1-0").endswith("it needs 7 free blocks (its own; nobody runs beside it)")
    assert evening.steps[10].num_free_blocks == 9
    assert evening.steps[12].blocks_swapped_in == 7


def test_nobody_is_let_in_while_somebody_is_swapped(evening):
    assert evening.in_words(7, "2-0") == "gives way: waits, and is computed again later"
    assert {evening.in_words(number, "2-0") for number in range(8, 12)} == {"waits: somebody is swapped"}
    assert evening.activity(12, "2-0") == "reads again"
    assert evening.in_words(12, "2-0") == "reads 8 tokens again, then its newest, gets token 8"


def test_who_is_swapped_comes_back_when_what_it_needs_is_free(story):
    [back] = [number for number, step in enumerate(story.steps) if step.blocks_swapped_in]
    words = story.in_words(back - 1, "2-0")
    assert int(re.search(r"needs (\d+) free", words)[1]) <= story.steps[back - 1].num_free_blocks
    words = story.in_words(back - 2, "2-0")
    assert int(re.search(r"needs (\d+) free", words)[1]) > story.steps[back - 2].num_free_blocks


# -- who did what ----------------------------------------------------------------------------------------


def test_what_a_sequence_does_follows_from_its_tokens(story):
    assert story.activity(0, "0-0") == "reads its prompt"
    assert story.activity(0, "0-1") == story.activity(0, "0-2") == "shares a prompt"
    assert story.in_words(0, "0-1") == "shares the prompt, gets token 1"
    assert {story.activity(1, seq_id) for seq_id in story.seq_ids} == {"gets a token"}
    decoded = sum(phase_of(seq) == "decode" for step in story.steps for seq in step.sequences)
    assert decoded == 6 * 11  # the first of 12 tokens comes with the prompt


def test_every_sequence_gets_its_tokens_one_after_the_other(story):
    for seq_id in story.seq_ids:
        said = " / ".join(story.in_words(number, seq_id) for number in range(len(story.steps)))
        assert [int(count) for count in re.findall(r"token (\d+)", said)] == list(range(1, 13))
    assert story.in_words(len(story.steps) - 1, "0-0") == "has ended"


def test_a_prompt_in_pieces_says_how_far_it_is_read():
    settings = {"max_num_batched_tokens": 4, "max_num_seqs": 4, "enable_chunked_prefill": True}
    llm = tiny_llm(record_history=True, **settings)
    llm.generate({"prompt_token_ids": [5] * 10}, SamplingParams(max_tokens=2), use_tqdm=False)
    assert RunStory(llm).in_words(0, "0-0") == "reads its prompt: 4 of 10 tokens so far"


def test_the_words_grow_to_the_text_that_was_generated(story, llm):
    tokenizer = llm.get_tokenizer()
    for seq_id in story.seq_ids:
        records = [seq for step in story.steps for seq in step.sequences if seq.seq_id == seq_id]
        text = tokenizer.decode(records[-1].output_token_ids, skip_special_tokens=True).rstrip("\ufffd")
        assert "".join(story.words(len(story.steps) - 1, seq_id)) == text


def test_letters_go_on_after_z():
    assert [letter_of(i) for i in (0, 25, 26, 27, 52)] == ["A", "Z", "AA", "BB", "AAA"]


def test_many_requests_keep_their_labels_and_colours():
    llm = tiny_llm(record_history=True)
    prompts = [{"prompt_token_ids": [5 + i]} for i in range(28)]
    llm.generate(prompts, SamplingParams(max_tokens=1), use_tqdm=False)
    story = RunStory(llm)
    assert [story.label(seq_id) for seq_id in story.seq_ids[-2:]] == ["AA0", "BB0"]
    assert story.color_index("BB0") == 27 % len(TINTS)


# -- the widget --------------------------------------------------------------------------------------------


def test_every_step_can_be_shown_and_says_what_the_record_says(timeline, story):
    shown = set()
    for number in range(len(story.steps)):
        timeline.step.value = number
        assert story.sentence(number) in timeline.status.value
        assert story.sentence(number) in timeline.summary()
        for seq_id in story.seq_ids:
            assert f"{story.label(seq_id):3} {story.in_words(number, seq_id)}: " in timeline.summary()
            assert story.in_words(number, seq_id) in timeline.picture.value
        for block in story.device_blocks(number):
            if block.owners:
                assert f"<b>{block.number}</b>: {' '.join(block.owners)}<" in timeline.picture.value
        shown.add(timeline.picture.value)
    assert len(shown) == len(story.steps)


def test_host_memory_is_shown_only_where_a_run_uses_it(timeline):
    assert "Host memory" in timeline.picture.value
    roomy = tiny_llm(record_history=True)
    roomy.generate(PROMPTS, SamplingParams(max_tokens=2), use_tqdm=False)
    assert "Host memory" not in Timeline(roomy).picture.value


def test_requests_have_their_own_colours_and_may_have_names(llm):
    shown = Timeline(llm, names=("Anna", "Bo", "Chen & Co")).picture.value
    for i, name in enumerate(("Anna", "Bo", "Chen &amp; Co")):
        assert f"{label(letter_of(i), i)} {name}" in shown
    with pytest.raises(ValueError, match="has 3 requests, and there are 2 names"):
        Timeline(llm, names=("Anna", "Bo"))


def test_the_cursor_is_over_its_step(timeline, story):
    lefts = []
    for number in (0, 1, len(story.steps) - 1):
        timeline.step.value = number
        lefts.append(float(re.search(r'class="cursor" style="[^"]*left: ([\d.]+)%', timeline.picture.value)[1]))
    assert lefts[0] < lefts[1] < lefts[2] < 100
    assert lefts[2] - lefts[0] == pytest.approx((len(story.steps) - 1) * (lefts[1] - lefts[0]), abs=0.2)


def test_the_frame_of_a_step_cuts_no_words(evening_llm):
    shown = Timeline(evening_llm)
    figure, _, memory = draw_run(shown.story)
    figure.canvas.draw()
    to_parts = figure.transFigure.inverted()
    words = [each.get_window_extent().transformed(to_parts) for each in memory.texts if each.get_text()]
    assert len(words) == 3  # two shortages and the size of the pool
    for step in range(len(shown.story.steps)):
        for left, bottom, width, height in shown._frames(step):
            frame = Bbox.from_bounds(left, bottom, width, height)
            assert not any(map(frame.overlaps, words))
    bars = [bar.get_window_extent().transformed(to_parts) for bar in memory.patches]
    assert frame.y1 == pytest.approx(max(bar.y1 for bar in bars))
    assert frame.y0 < min(bar.y0 for bar in bars)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_words_about_the_memory_cover_others(evening, language):
    with speaking(language):
        figure, _, memory = draw_run(evening)
    figure.canvas.draw()
    boxes = [each.get_bbox_patch() or each for each in memory.texts if each.get_text()]
    words = [box.get_window_extent() for box in boxes]
    assert len(words) == 3
    assert not any(one.overlaps(other) for one, other in itertools.combinations(words, 2))


def test_a_cell_has_the_number_of_blocks_that_are_held(evening):
    _, sequences, _ = draw_run(evening)
    written = {text.get_position(): int(text.get_text()) for text in sequences.texts}
    for row, seq_id in enumerate(evening.seq_ids):
        for number, step in enumerate(evening.steps):
            [held] = [len(each.block_table) for each in step.sequences if each.seq_id == seq_id] or [0]
            assert written.get((number, row), 0) == held
    assert evening.held_by(16, "2-0") == 0


def test_the_longest_words_of_the_legend_are_in_its_last_column(evening):
    figure, *_ = draw_run(evening)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == 8
    assert set(sorted(labels, key=len)[-2:]) == set(labels[-2:])


def test_a_large_pool_is_cut_and_says_so():
    llm = tiny_llm(block_size=1, num_gpu_blocks_override=200, record_history=True)
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    llm.generate({"prompt_token_ids": [5] * (MAX_BLOCKS + 10)}, params, use_tqdm=False)
    assert "10 further ones" in Timeline(llm).picture.value


def test_a_run_that_was_not_recorded_is_refused():
    with pytest.raises(ValueError, match="record_history=True"):
        recorded(tiny_llm())
    with pytest.raises(ValueError, match="no step yet"):
        Timeline(tiny_llm(record_history=True))


def test_the_static_figure_tells_its_first_and_last_step_and_the_shortage(llm, story):
    image = plot_timeline(llm)
    assert image.data.startswith(b"\x89PNG")
    assert story.sentence(0) in image.alt
    assert story.sentence(len(story.steps) - 1) in image.alt
    assert "C moves to host memory" in image.alt


def test_without_a_kernel_it_is_a_picture_and_a_sentence(timeline):
    bundle, metadata = timeline._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == timeline.summary()
    assert metadata["image/png"]["alt"] == timeline.summary()


def test_kv_use_counts_the_places_in_held_blocks(llm):
    held, filled = kv_use(llm)
    assert all(0 < fill <= hold for fill, hold in zip(filled, held, strict=True))
    assert held[0] == 4 * (2 + 1 + 2)
    assert filled[0] == 6 + 2 + 5
