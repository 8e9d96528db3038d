"""Every token's colour and alternatives are the model's own probabilities."""

import re

import pytest
import torch

from folovllm import SamplingParams
from folovllm.course.widgets.token_colours import NUM_ALTERNATIVES, TokenColours, probabilities_of
from tests.tiny_models import tiny_llm


@pytest.fixture(scope="module")
def llm():
    return tiny_llm()


@pytest.fixture
def colours(llm):
    return TokenColours(llm, "abc", max_tokens=8)


def test_the_probabilities_are_those_of_a_pass_over_the_text_so_far(llm, colours):
    ids = llm.get_tokenizer()("abc")["input_ids"]
    for token, probability in zip(colours.completion.token_ids, probabilities_of(colours.completion), strict=True):
        logits = llm.compute_logits({"prompt_token_ids": ids})
        assert probability == pytest.approx(float(torch.softmax(logits.double(), 0)[token]), abs=1e-4)
        ids = [*ids, token]


def test_every_token_can_be_focused_and_names_itself_and_its_alternatives(llm, colours):
    spans = re.findall(r'tabindex="0" role="group" aria-label="([^"]*)"', colours.text.value)
    tips = re.findall(r'<span aria-hidden="true">([^<]*)</span></span>', colours.text.value)
    assert len(spans) == len(tips) == len(colours.completion.token_ids)
    ids = llm.get_tokenizer()("abc")["input_ids"]
    for token, told, tip in zip(colours.completion.token_ids, spans, tips, strict=True):
        logits = llm.compute_logits({"prompt_token_ids": ids}).double()
        likeliest = torch.softmax(logits, 0).topk(NUM_ALTERNATIVES).values.tolist()
        # Greedy: the token itself is the first of the likeliest, and the others follow in their order.
        assert [float(each) / 100 for each in re.findall(r"([\d.]+)%", tip)] == pytest.approx(likeliest, abs=0.001)
        assert [float(each) / 100 for each in re.findall(r"(\d+)%", told)] == pytest.approx(likeliest, abs=0.01)
        assert told.index("; else ") > 0
        ids = [*ids, token]


def test_a_moved_control_changes_text_and_words(colours):
    before = colours.text.value
    colours.temperature.value = 2.0
    assert colours.text.value != before
    colours.temperature.value = 0.0
    assert colours.text.value == before
    colours.prompt.value = ""
    assert "The engine refused this" in colours.status.value


def test_markup_in_a_prompt_stays_text(llm):
    shown = TokenColours(llm, "<b>&", max_tokens=1).text.value
    assert "<b>" not in shown.split("</style>")[1]
    assert "&lt;b&gt;&amp;" in shown


def test_the_sentence_counts_the_colours(colours):
    values = probabilities_of(colours.completion)
    sure, below = sum(v >= 0.5 for v in values), sum(v < 0.1 for v in values)
    assert colours.sentence() == f"{len(values)} tokens: {sure} had 50 % and more, {below} less than 10 %"
    assert colours.sentence() in colours.summary()


def test_without_log_probabilities_there_is_nothing_to_colour(llm):
    [output] = llm.generate("abc", SamplingParams(max_tokens=1), use_tqdm=False)
    with pytest.raises(ValueError, match="logprobs=0 or more"):
        probabilities_of(output.outputs[0])
