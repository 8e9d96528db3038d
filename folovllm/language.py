"""The language in which the course and the commands speak: English, or Chinese by the standard library's gettext.

A sentence is looked up when it is shown, so a language that is chosen later holds for all that is shown later. The
engine's errors are English in any language, as vLLM's are.

What stands between the parts of a sentence is the language's too, 「，」 is no comma: ``listed``, ``clauses``,
``sentences`` and ``labelled`` put it there.
"""

import gettext
import locale
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path

LANGUAGES = {"en": "English", "zh": "简体中文"}
_FOLDER = Path(__file__).parent / "locale"
_SYSTEMS_CHOICE = ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set counts, as for gettext

_chosen: list[str] = []


def use_language(language: str) -> None:
    """Choose the language of all that is shown from now on: "en" or "zh"."""
    _chosen[:] = [_checked(language, "language")]


@contextmanager
def speaking(language: str | None) -> Iterator[None]:
    """Speak a language while the block runs: "en", "zh", or None: as before."""
    before = _chosen[:]
    try:
        if language is not None:
            use_language(language)
        yield
    finally:
        _chosen[:] = before


def current_language() -> str:
    """Return "en" or "zh": what ``use_language`` was told, else FOLOVLLM_LANG, else the system's language."""
    if _chosen:
        return _chosen[0]
    if wanted := os.environ.get("FOLOVLLM_LANG"):
        return _checked(wanted, "FOLOVLLM_LANG")
    named = next(filter(None, map(os.environ.get, _SYSTEMS_CHOICE)), None) or locale.getlocale()[0] or ""
    return "zh" if named.lower().startswith(("zh", "chinese")) else "en"


def _(message: str) -> str:
    """Return a sentence in the current language."""
    return _sentences(current_language()).gettext(message) if message else ""  # gettext's answer to "" is its header


def pgettext(context: str, message: str) -> str:
    """Return words in the current language that mean something else in another context."""
    return _sentences(current_language()).pgettext(context, message)


def ngettext(singular: str, plural: str, number: int) -> str:
    """Return the form of a sentence that fits a number, in the current language."""
    return _sentences(current_language()).ngettext(singular, plural, number)


def counted(number: int, singular: str, plural: str) -> str:
    """Return a number of things in words, in the current language: ``counted(2000, "{n} step", "{n} steps")``."""
    return ngettext(singular, plural, number).format(n=f"{number:,}")


def listed(words: Iterable[object]) -> str:
    """Return words or numbers in a row: "a, b, c"."""
    return pgettext("between the words of a row", ", ").join(map(str, words))


def clauses(told: Iterable[str]) -> str:
    """Return parts of one sentence: "one; another"."""
    return pgettext("between the clauses of a sentence", "; ").join(told)


def sentences(*told: str) -> str:
    """Return sentences, or the lines of a label, one behind the other; those that are empty are left out."""
    return reduce(_followed_by, filter(None, told), "")


def labelled(label: object, words: object) -> str:
    """Return words behind the name of what they tell of: "Anna: waits"."""
    return _("{label}: {words}").format(label=label, words=words)


def N_(message: str) -> str:
    """Mark a sentence that is kept in English, and looked up by ``_`` where it is shown."""
    return message


def _followed_by(one: str, other: str) -> str:
    return _("{one} {other}").format(one=one, other=other) if one else other


def _checked(language: str, name: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"{name} must be one of {', '.join(LANGUAGES)}, got {language!r}")
    return language


@cache
def _sentences(language: str) -> gettext.NullTranslations:
    if language == "en":
        return gettext.NullTranslations()
    return gettext.translation("folovllm", _FOLDER, languages=["zh_CN"])
