"""For Sphinx: a search in Chinese without a dictionary; each character is a word, and all of a query must be found."""

import re
from typing import Any

from sphinx.search import SearchLanguage


class CharacterSearch(SearchLanguage):
    """Splits Chinese into characters, and all else into words; the page's script does the same with a query."""

    lang = "zh_CN"
    language_name = "Chinese"
    js_splitter_code = "var splitQuery = query => query.match(/[\\u4e00-\\u9fff]|[0-9A-Za-z_]+/g) || [];"

    def split(self, input: str) -> list[str]:
        """Return the words of a text."""
        return re.findall(r"[\u4e00-\u9fff]|[0-9A-Za-z_]+", input)


def setup(app: Any) -> dict[str, Any]:
    """Register the extension."""
    app.add_search_language(CharacterSearch)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
