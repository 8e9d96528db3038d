"""The figures of chapter 06 show what they say: numbers of the model, a strategy's own cut, a text in a lantern."""

import pytest
import torch

from folovllm.course import plot_cut, plot_lantern, plot_memory_growth, plot_patterns, plot_place
from folovllm.course.exercises.checks import EXERCISES
from folovllm.course.exercises.patterns.strategies import epsilon_solution
from folovllm.models.probe import get_attention
from tests.tiny_models import tiny_llm


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


def test_each_pattern_has_a_question():
    picture = plot_patterns()
    assert picture.data.startswith(b"\x89PNG")
    assert picture.alt.count("?") == 4


def test_the_place_of_a_rule_is_between_the_filters_and_the_draw():
    alt = plot_place().alt
    assert alt.index("top-p") < alt.index("refine") < alt.index("the token")


def test_the_memory_is_the_models(llm):
    model = llm.llm_engine.model_runner.model
    assert f"{get_attention(model).bytes_per_token(model.dtype):,} bytes per token" in plot_memory_growth(llm).alt


def test_the_cut_is_the_strategys(llm):
    prompts = [{"prompt_token_ids": [5, 6, 7]}, {"prompt_token_ids": [8]}]
    logits = llm.llm_engine.compute_logits(prompts[0]).float()
    probs = logits.softmax(dim=-1)
    epsilon = float(probs.sort(descending=True).values[3:5].mean())
    assert f"{epsilon:g} keeps 4 tokens and 0.99 1." in plot_cut(llm, prompts, (epsilon, 0.99), epsilon_solution).alt
    nothing = plot_cut(llm, prompts, (0.1, 0.2), lambda logits, epsilon: torch.full_like(logits, -torch.inf))
    assert "0.1 keeps 0 tokens and 0.2 0." in nothing.alt


def test_the_lantern_holds_the_text_and_the_courses_numbers():
    alt = plot_lantern("A light in the library.\n").alt
    assert "In it stands: A light in the library." in alt
    assert f"{len(EXERCISES) - 1} exercises, and a rule of your own" in alt  # the rule is the last exercise
