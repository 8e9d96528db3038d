"""README and INSTRUCTORS in Chinese: the English pages with the words of their catalogs, as the notebooks are.

A message's place is its section, as GitHub writes it in an address. Besides paragraphs, the words in code blocks that
only a reader reads are translated: the labels of a Mermaid figure, and a shell's comments.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from babel.messages.catalog import Catalog

from folovllm.course.editions.paragraphs import map_paragraphs
from folovllm.course.editions.translate import add_message, renewed, state, translation

PAGES = ("README", "INSTRUCTORS")
_WORDS_IN_CODE = {"mermaid": re.compile(r"""(["|])([^"|]+)(\1)"""), "sh": re.compile("(# )(.+)()")}
_SECTION = re.compile("^(?=#+ )", re.MULTILINE)
_PAGE_NAME = re.compile(rf"(?<!/)\b({'|'.join(PAGES)})\.md\b")  # not of other folders


def translate_pages(folder: Path, catalogs: Path) -> list[str]:
    """Bring the pages' catalogs up to date, and write ``README.zh.md`` and its like; return what is left to do.

    folder: has the English pages; one that is not there is passed over, as in a learner's folder.
    A paragraph without a translation is written in English.
    """
    sources = [folder / f"{page}.md" for page in PAGES]
    return [_translate_one(source, catalogs / f"{source.stem}.po") for source in sources if source.is_file()]


def _translate_one(source: Path, file: Path) -> str:
    text = source.read_text(encoding="utf-8")
    catalog = renewed(file, _template(text))
    words = _PAGE_NAME.sub(r"\1.zh.md", _map_page(text, partial(translation, catalog)))
    source.with_suffix(".zh.md").write_text(f"[English]({source.name}) | 简体中文\n{words}", encoding="utf-8")
    return state(file, catalog)


def _map_page(text: str, change: Callable[[str], str]) -> str:
    """Return a page without its first line, which leads to the other language, with each of its messages changed."""
    _, rest = text.split("\n", 1)
    return map_paragraphs(_map_code_blocks(rest, change), change)


def _map_code_blocks(text: str, change: Callable[[str], str]) -> str:
    def changed_block(block: re.Match[str]) -> str:
        words = _WORDS_IN_CODE.get(block[1])
        return words.sub(lambda found: found[1] + change(found[2]) + found[3], block[0]) if words else block[0]

    return re.sub(r"^```(\w+)\n.*?^```$", changed_block, text, flags=re.MULTILINE | re.DOTALL)


def _template(text: str) -> Catalog:
    """Return a catalog of all messages of a page, in its order."""
    template = Catalog()
    for section in _SECTION.split(text.split("\n", 1)[1]):
        heading = section.partition("\n")[0].lower()
        place = re.sub("[^a-z0-9]+", "-", heading).strip("-")
        _map_page("\n" + section, partial(add_message, template, place))
    return template
