"""The recorded move to vLLM: what chapter 06 says of it stands in it."""

import pytest

from folovllm import EngineConfig, SamplingParams
from folovllm.course import answer_of_to_vllm, plot_move, recorded_move
from folovllm.course.exercises.patterns.classes import ReferenceParams
from folovllm.llm import make_engine_config


@pytest.fixture(scope="module")
def move():
    return recorded_move()


def test_every_question_has_an_answer_of_both_engines(move):
    for answers in (move.greedy, move.drawn):
        assert {name: len(texts) for name, texts in answers.items()} == {"folovllm": 8, "vllm": 8}
    assert len(move.questions) == 8


def test_greedy_texts_are_the_same_on_both_and_drawn_ones_are_not(move):
    assert move.greedy["folovllm"] == move.greedy["vllm"]
    assert all(ours != theirs for ours, theirs in zip(*move.drawn.values(), strict=True))


def test_no_draw_with_an_epsilon_was_less_probable_than_that(move):
    assert [run.epsilon for run in move.epsilon] == [0.0, 0.02, 0.1]
    for run in move.epsilon:
        assert all(least >= run.epsilon for least in run.least.values())
    assert all(least < 0.001 for least in move.epsilon[0].least.values())


def test_the_picture_says_its_numbers_in_words(move):
    picture = plot_move(move)
    for by_engine in move.tokens_per_second.values():
        for value in by_engine.values():
            assert f"{value:.0f}" in picture.alt
    assert move.titles["vllm"] in picture.alt


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        (SamplingParams(temperature=0.7, top_p=0.9), "passed on"),
        (ReferenceParams(epsilon=0.1), "warned"),
        (make_engine_config("Qwen/Qwen3-0.6B"), "passed on"),
        (EngineConfig(), "warned"),
        (SamplingParams(min_p=0.3, top_p=0.7), "warned"),
        (SamplingParams(n=2, best_of=5), "refused"),
    ],
)
def test_what_becomes_of_settings_is_what_to_vllm_does(settings, answer):
    verdict, message = answer_of_to_vllm(settings)
    assert verdict == answer
    assert bool(message) == (answer != "passed on")
