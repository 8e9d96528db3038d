"""The measurements of chapter 06: they measure what they say, and find what the notebook says."""

import time

import numpy as np

from folovllm.course import bytes_of, plot_growth, plot_records, seconds
from folovllm.course.costs import compare_records, fill_array, grow_array, grow_list


def test_seconds_is_the_time_of_one_call():
    assert 0.002 <= seconds(lambda: time.sleep(0.002)) < 0.1
    assert seconds(lambda: None) < 1e-3


def test_seconds_takes_the_best_round():
    waits = iter([0.3, 0.02, 0.3])
    assert 0.02 <= seconds(lambda: time.sleep(next(waits)), rounds=3) < 0.25


def test_bytes_are_those_of_the_thing_and_not_of_what_was_thrown_away():
    for size in (10_000, 1_000_000):
        assert size <= bytes_of(lambda size=size: bytearray(size)) < size + 1000
    assert bytes_of(lambda: len(bytearray(1_000_000))) < 1000


def test_all_ways_to_collect_tokens_collect_the_same():
    wanted = list(range(100))
    assert grow_list(100) == wanted
    for grow in (grow_array, fill_array):
        assert isinstance(grow(100), np.ndarray)
        assert grow(100).tolist() == wanted


def test_a_record_with_slots_is_smallest():
    costs = {cost.kind: cost for cost in compare_records(500)}
    assert list(costs) == ["dict", "dataclass", "with slots", "frozen"]
    assert all(
        cost.make_ns > 0 and cost.read_ns > 0 for cost in costs.values()
    )  # which is faster is no test's business
    assert costs["with slots"].num_bytes < costs["dataclass"].num_bytes
    assert costs["with slots"].num_bytes < costs["dict"].num_bytes


def test_the_figures_say_in_words_what_was_measured():
    growth, records = plot_growth((100, 400)), plot_records()
    assert growth.data.startswith(b"\x89PNG")
    assert "at 400 tokens: array, np.append" in growth.alt
    assert all(f"{kind} " in records.alt for kind in ("dict", "dataclass", "with slots", "frozen"))
