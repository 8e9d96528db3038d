"""A token's label can be read: white space is seen, Chinese is drawn or named, bytes are bytes."""

import pytest

from folovllm.course import token_text
from folovllm.course.token_text import text_or_bytes, token_fonts, token_label, visible_text
from tests.tiny_models import tiny_llm


@pytest.mark.parametrize(
    ("text", "label"),
    [(" the", "␣the"), ("\n", "⏎"), ("\t", "⇥"), ("a" * 20, "a" * 13 + "…"), ("的", "<U+7684>")],
)
def test_visible_text(text, label):
    assert visible_text(text) == label


def test_a_font_with_chinese_is_used_where_the_system_has_one(monkeypatch):
    monkeypatch.setattr(token_text, "_characters", lambda family: {ord("的")} if family == "Songti SC" else set())
    entries = [type("Entry", (), {"name": name}) for name in ("DejaVu Sans", "Songti SC", "Heiti without it")]
    monkeypatch.setattr(token_text.fontManager, "ttflist", entries)
    token_fonts.cache_clear()
    assert token_fonts() == ("monospace", "Songti SC")
    assert visible_text("的", token_fonts()) == "的"
    token_fonts.cache_clear()


def test_common_characters_are_drawn_on_a_machine_without_chinese_fonts(monkeypatch):
    monkeypatch.setattr(token_text, "_CJK_FONTS", ())
    token_fonts.cache_clear()
    assert visible_text("的", token_fonts()) == "的"
    token_fonts.cache_clear()


def test_a_part_of_a_character_is_told_by_its_bytes():
    tokenizer = tiny_llm().get_tokenizer()
    ids = tokenizer("你").input_ids
    assert [text_or_bytes(tokenizer, i) for i in ids] == ["<e4>", "<bd>", "<a0>"]
    assert [token_label(tokenizer, i) for i in ids] == ["<e4>", "<bd>", "<a0>"]
