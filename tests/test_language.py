"""The course speaks the language that was chosen, else the environment's, else the system's; the engine English."""

import pytest

from folovllm import SamplingParams, language
from folovllm.__main__ import main
from folovllm.language import _, counted, current_language, ngettext, use_language


@pytest.fixture(autouse=True)
def nobody_has_chosen(monkeypatch):
    monkeypatch.setattr(language, "_chosen", [])
    for name in ("FOLOVLLM_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(language.locale, "getlocale", lambda: (None, None))


def test_without_any_sign_it_is_english():
    assert current_language() == "en"
    assert _("Press Generate.") == "Press Generate."


@pytest.mark.parametrize("variable", ["LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"])
@pytest.mark.parametrize("value", ["zh_CN.UTF-8", "zh_TW", "zh"])
def test_a_chinese_system_is_spoken_to_in_chinese(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    assert current_language() == "zh"


def test_windows_says_its_language_in_words(monkeypatch):
    monkeypatch.setattr(language.locale, "getlocale", lambda: ("Chinese (Simplified)_China", "936"))
    assert current_language() == "zh"


@pytest.mark.parametrize("value", ["de_DE.UTF-8", "C.UTF-8", "POSIX", "en_GB"])
def test_any_other_system_is_spoken_to_in_english(monkeypatch, value):
    monkeypatch.setenv("LANG", value)
    assert current_language() == "en"


def test_the_variable_goes_before_the_system_and_the_notebook_before_both(monkeypatch):
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    monkeypatch.setenv("FOLOVLLM_LANG", "en")
    assert current_language() == "en"
    use_language("zh")
    assert current_language() == "zh"
    use_language("en")
    assert current_language() == "en"


def test_what_is_shown_later_is_in_the_language_chosen_later():
    assert _("Press Generate.") == "Press Generate."
    use_language("zh")
    assert _("Press Generate.") == "请点击“生成”。"
    assert _("a sentence that no catalog has") == "a sentence that no catalog has"
    assert _("") == ""


def test_numbers_decide_the_form_where_a_language_has_several():
    assert counted(1, "{n} token", "{n} tokens") == "1 token"
    assert counted(2000, "{n} token", "{n} tokens") == "2,000 tokens"
    use_language("zh")
    assert counted(1, "{n} token", "{n} tokens") == "1 个 token"
    assert counted(2000, "{n} token", "{n} tokens") == "2,000 个 token"
    assert ngettext("{n} unheard of", "{n} unheard ofs", 2) == "{n} unheard ofs"


def test_another_language_is_refused_by_name(monkeypatch, capsys):
    with pytest.raises(ValueError, match="language must be one of en, zh, got 'de'"):
        use_language("de")
    monkeypatch.setenv("FOLOVLLM_LANG", "de")
    assert main(["doctor"]) == 2
    assert "FOLOVLLM_LANG must be one of en, zh, got 'de'" in capsys.readouterr().err


def test_the_engines_errors_are_english_in_any_language():
    use_language("zh")
    with pytest.raises(ValueError, match="temperature must be"):
        SamplingParams(temperature=-1)
