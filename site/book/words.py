"""What the book says around the chapters: English in its code, Chinese in its catalog, ``translations/zh_CN/site.po``.

The catalog is kept as those of the notebooks are: ``python -m folovllm course translate`` brings it up to date.
"""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import TypeVar

from babel.messages.catalog import Catalog

from folovllm import language
from folovllm.course.editions.translate import LOCALE, SITE_CATALOG, read_catalog
from folovllm.language import LANGUAGES, current_language, speaking

T = TypeVar("T")
ROOT = Path(__file__).parents[2]


def _(message: str) -> str:
    """Return a sentence of the book, or one that the course has too, in the current language."""
    own = _chinese().get(message) if current_language() == "zh" else None
    return str(own.string) if own and own.string else language._(message)


@cache
def _chinese() -> Catalog:
    return read_catalog(ROOT / "translations" / LOCALE / SITE_CATALOG)


def translated(messages: Iterable[str]) -> dict[str, str]:
    """Return sentences by their English, in the current language."""
    return {each: _(each) for each in messages}


def forms(singular: str, plural: str) -> dict[str, str]:
    """Return both forms of a sentence by their English, in the current language."""
    return {singular: language.ngettext(singular, plural, 1), plural: language.ngettext(singular, plural, 2)}


def in_every_language(say: Callable[[], T]) -> dict[str, T]:
    """Return what is said in each language."""
    said = {}
    for each in LANGUAGES:
        with speaking(each):
            said[each] = say()
    return said
