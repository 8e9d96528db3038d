"""The budget's numbers equal a count by hand and the engine's own; the widget follows its controls."""

import math
import random
from dataclasses import replace

import pytest
import torch

from folovllm.course.widgets.kv_budget import BLOCK_SIZES, Budget, KVBudget
from folovllm.models.probe import AttentionSpec
from tests.tiny_models import tiny_llm

SIZES = {torch.float32: 4, torch.bfloat16: 2, torch.float16: 2}


@pytest.fixture(scope="module")
def widget():
    return KVBudget(tiny_llm(), memory_mib=16, block_size=16, length=200)


def by_hand(budget: Budget) -> tuple[int, int, int]:
    """Return blocks, sequences and wasted bytes, by placing token after token."""
    spec = budget.spec
    token = 2 * spec.num_layers * spec.num_kv_heads * spec.head_dim * SIZES[budget.dtype]
    blocks = int(budget.memory_bytes / (token * budget.block_size))
    free, sequences, empty = blocks, 0, 0
    while (needed := math.ceil(budget.length / budget.block_size)) <= free:
        free -= needed
        sequences += 1
        empty += needed * budget.block_size - budget.length
    return blocks, sequences, empty * token


def test_the_budget_equals_a_count_by_hand():
    rng = random.Random(0)
    for _ in range(200):
        spec = AttentionSpec(rng.randint(1, 30), rng.randint(1, 8), rng.choice([16, 64]))
        memory = rng.randint(2**22, 2**26)
        budget = Budget(spec, rng.choice(list(SIZES)), memory, rng.choice(BLOCK_SIZES), rng.randint(1, 600))
        assert (budget.num_blocks, budget.num_sequences, budget.empty_bytes) == by_hand(budget)
        left = budget.num_left_over * budget.block_bytes + memory % budget.block_bytes
        assert budget.left_over_bytes == left
        assert budget.used_bytes + budget.wasted_bytes == memory


def test_blocks_left_over_are_waste():
    budget = Budget(AttentionSpec(30, 3, 64), torch.float32, 256 * 2**20, 128, 2000)
    assert (budget.num_blocks, budget.num_sequences, budget.num_left_over) == (45, 2, 13)
    assert (
        budget.sentence().splitlines()[1] == "wasted: 1.65 % in last blocks + 29.69 % left over (13 blocks) = 31.34 %"
    )


def test_one_is_not_written_as_many():
    budget = Budget(AttentionSpec(30, 3, 64), torch.float32, 2**20, 16, 16)
    assert budget.sentence().startswith("1 block of 720 KiB: room for 1 sequence of 16 tokens, 1 block per sequence")


def test_the_sliders_of_memory_and_length_multiply(widget):
    [columns] = widget.children[:1]
    slider, box = columns.children[0].children[1].children
    slider.value = slider.min
    assert box.value == 16
    slider.value += 10  # a doubling
    assert box.value == 32
    slider.value = slider.max
    assert box.value == 8192
    before = slider.value
    box.value = 200
    assert slider.value < before
    assert box.value == 200


@pytest.mark.parametrize(
    ("control", "value"), [("memory", 64), ("length", 1000), ("block_size", 128), ("dtype", "bfloat16")]
)
def test_a_moved_control_changes_words_and_picture(widget, control, value):
    words, picture, before = widget.status.value, widget.picture.value, getattr(widget, control).value
    getattr(widget, control).value = value
    assert widget.status.value != words
    assert widget.picture.value != picture
    assert widget.budget.sentence() in widget.summary()
    getattr(widget, control).value = before
    assert (widget.status.value, widget.picture.value) == (words, picture)


@pytest.mark.parametrize("block_size", [1, 16, 128])
def test_the_present_setting_has_its_number_above_its_bar(widget, block_size):
    widget.block_size.value = block_size
    number = widget._picture._numbers[widget.block_size.options.index(block_size)]
    wasted = widget.budget.share_of(widget.budget.wasted_bytes)
    assert number.get_text() == f"{100 * wasted:.1f} %"
    assert number.xy[1] == wasted


@pytest.mark.parametrize("memory", [1, 16, 4096])
def test_the_axis_ends_little_above_the_most_that_fit(memory):
    widget = KVBudget(tiny_llm(), memory_mib=memory, block_size=16, length=200)
    most = replace(widget.budget, length=16).num_sequences
    top = widget._picture._fit_axis.axes.get_ylim()[1]
    assert most <= top <= max(20, 10 * most)


def test_where_nothing_fits_it_says_so(widget):
    none = Budget(AttentionSpec(30, 8, 128), torch.float32, 2**20, 16, 200)
    assert none.sentence().startswith("0 blocks of 3,840 KiB: room for 0 sequences of 200 tokens each")
    assert none.sentence().endswith("100.00 % left over (less than one block) = 100.00 %")
    widget.spec = none.spec
    widget.length.value = 8192
    assert "room for 0 sequences of 8,192 tokens each" in widget.status.value


def test_without_a_kernel_it_is_a_picture_and_a_sentence(widget):
    bundle, metadata = widget._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == widget.summary()
    assert metadata["image/png"]["alt"] == widget.summary()
