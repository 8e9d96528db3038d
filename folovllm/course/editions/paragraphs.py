"""What of a notebook is translated: its Markdown, a message per paragraph, heading, list item, row or folded text."""

import re
from collections.abc import Callable, Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

_MARKDOWN = MarkdownIt("commonmark").enable("table")
_NOT_PROSE = re.compile(r"`[^`]*`|<code>.*?</code>|<[^>]+>|\]\([^)]*\)|&\w+;|https?://\S+")
_BETWEEN_TEXTS = re.compile(r"(<pre>.*?</pre>|</?(?:details|summary)>|\n)", re.DOTALL)
"""In folded parts: what stands between two texts, and is kept as it is."""


def map_paragraphs(source: str, change: Callable[[str], str]) -> str:
    """Return a Markdown cell's source with each of its messages changed, and all else as it was.

    A paragraph of several lines is one message, of one line: a line break in Chinese would be seen as a space.
    Code blocks, and what has no word outside code, are no messages.
    """
    lines = source.split("\n")
    changed: list[str] = []
    done = 0
    for start, end, kind in _blocks(_MARKDOWN.parse(source)):
        changed += [*lines[done:start], _change_block(lines[start:end], kind, change)]
        done = end
    return "\n".join([*changed, *lines[done:]])


def _blocks(tokens: list[Token]) -> Iterator[tuple[int, int, str]]:
    """Yield what holds text: its first line, the line after its last, and what it is."""
    in_table = False
    for token in tokens:
        in_table = (in_table or token.type == "table_open") and token.type != "table_close"
        if token.map and (token.type in ("tr_open", "html_block") or (token.type == "inline" and not in_table)):
            yield token.map[0], token.map[1], token.type


def _change_block(lines: list[str], kind: str, change: Callable[[str], str]) -> str:
    if kind == "html_block":
        parts = _BETWEEN_TEXTS.split("\n".join(lines))  # texts, and every second one what is between them
        return "".join(part if place % 2 else _changed(part, change) for place, part in enumerate(parts))
    marker = re.match(r"(?:[ >]|#+ |[*+-] |\d+[.)] )*", lines[0])
    assert marker is not None, "the pattern matches nothing, too"
    return marker[0] + _changed(" ".join(line.lstrip(" >") for line in [lines[0][marker.end() :], *lines[1:]]), change)


def _changed(text: str, change: Callable[[str], str]) -> str:
    message = text.strip()
    if not re.search("[A-Za-z]{2}", _NOT_PROSE.sub("", message)):
        return text
    return text.replace(message, change(message))
