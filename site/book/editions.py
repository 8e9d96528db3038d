"""The languages in which the book is there."""

from dataclasses import dataclass
from pathlib import Path

from book.words import ROOT


@dataclass(frozen=True)
class Edition:
    """The book in one language.

    language: the course's name of it.  code: for browsers and Sphinx.  name: for people.
    notebooks: the folder of its chapters.  site: where it lies in the site, "" for the top.
    """

    language: str
    code: str
    name: str
    notebooks: Path
    site: str


_ALL = (
    Edition("en", "en", "English", ROOT / "notebooks", ""),
    Edition("zh", "zh_CN", "中文", ROOT / "notebooks" / "zh", "zh"),
)


def editions() -> list[Edition]:
    """Return the languages in which every chapter is there."""
    chapters = {each.language: {path.name for path in each.notebooks.glob("*.ipynb")} for each in _ALL}
    return [each for each in _ALL if chapters[each.language] == chapters["en"]]


def switches(here: Edition, others: list[Edition]) -> list[dict[str, str]]:
    """Return, for the page's switch, where the other languages lie as seen from this one's top."""
    up = "../" if here.site else ""
    return [
        {"name": each.name, "code": each.code.replace("_", "-"), "top": up + (f"{each.site}/" if each.site else "")}
        for each in others
        if each != here
    ]
