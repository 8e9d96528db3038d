"""Every token's colour and alternatives are the model's own probabilities."""

import re

import pytest
import torch

from folovllm import SamplingParams
from folovllm.course.widgets.token_colours import (
    BANDS,
    NUM_ALTERNATIVES,
    TokenColours,
    _look,
    pieces_of,
    probabilities_of,
)
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
    assert colours.text.value == ""
    assert "The engine refused this" in colours.summary()


def test_markup_in_a_prompt_stays_text(llm):
    shown = TokenColours(llm, "<b>&", max_tokens=1).text.value
    assert "<b>" not in shown.split("</style>")[1]
    assert "&lt;b&gt;&amp;" in shown


def test_the_sentence_counts_the_colours(colours):
    values = probabilities_of(colours.completion)
    sure, below = sum(v >= 0.5 for v in values), sum(v < 0.1 for v in values)
    between = len(values) - sure - below
    counts = f"{sure} blue (50 % and more), {between} yellow (10 to 50 %), {below} red (below 10 %)"
    assert colours.sentence() == f"{len(values)} tokens: {counts}"
    assert colours.sentence() in colours.summary()


def test_every_colour_is_named_and_has_a_line_of_its_own(colours):
    for band in BANDS:
        assert f"{band.name}: {band.words}" in colours.text.value
    assert len({band.line for band in BANDS}) == len({band.colour for band in BANDS}) == len(BANDS)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("band", BANDS, ids=lambda band: band.name)
def test_text_on_a_colour_reads_in_every_theme(colours, band):
    """The text brings its own colour, so only that and the background count (WCAG 2.1, 1.4.3)."""
    assert ".folovllm-token { white-space: pre-wrap; color: #1a1a1a" in colours.text.value
    assert (luminance(band.colour) + 0.05) / (luminance("#1a1a1a") + 0.05) >= 4.5
    assert (luminance(band.colour) + 0.05) / (luminance(band.edge) + 0.05) >= 3


def test_a_character_of_several_tokens_is_one_piece():
    tokenizer = tiny_llm().get_tokenizer()
    ids = tokenizer("a你b好").input_ids
    pieces = pieces_of(tokenizer, tokenizer("x").input_ids, ids)
    assert [text for text, _ in pieces] == ["a", "你", "b", "好"]
    assert [count for _, count in pieces] == [1, 3, 1, 3]
    assert pieces_of(tokenizer, [], ids[:2])[1:] == [("\ufffd", 1)]


def test_a_piece_of_several_tokens_has_the_colours_of_all():
    assert _look([0.9]).startswith(f"background: {BANDS[2].colour};")
    look = _look([0.05, 0.9])
    assert f"{BANDS[0].colour} 0% 50%, {BANDS[2].colour} 50% 100%" in look
    assert f"dotted {BANDS[0].edge}" in look


def test_without_log_probabilities_there_is_nothing_to_colour(llm):
    [output] = llm.generate("abc", SamplingParams(max_tokens=1), use_tqdm=False)
    with pytest.raises(ValueError, match="logprobs=0 or more"):
        probabilities_of(output.outputs[0])
