"""The languages in which the book is there."""

from dataclasses import dataclass
from pathlib import Path

from book.words import CHINESE, ENGLISH, Words

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Edition:
    """The book in one language.

    code: for browsers and Sphinx.  name: for people.  notebooks: the folder of its chapters.
    site: where it lies in the site, "" for the top.
    """

    code: str
    name: str
    notebooks: Path
    site: str
    words: Words


_ALL = (
    Edition("en", "English", ROOT / "notebooks", "", ENGLISH),
    Edition("zh_CN", "中文", ROOT / "notebooks" / "zh", "zh", CHINESE),
)


def editions() -> list[Edition]:
    """Return the languages whose notebooks are there."""
    return [each for each in _ALL if any(each.notebooks.glob("*.ipynb"))]


def switches(here: Edition, others: list[Edition]) -> list[dict[str, str]]:
    """Return, for the page's switch, where the other languages lie as seen from this one's top."""
    up = "../" if here.site else ""
    return [
        {"name": each.name, "code": each.code.replace("_", "-"), "top": f"{up}{each.site}/".lstrip("/") or "./"}
        for each in others
        if each != here
    ]
