"""For Sphinx: the house's docstrings, ``name: what it is`` line by line, become lists of parameters."""

import re
from collections.abc import Iterator
from typing import Any

_NAMED = re.compile(r"((?:[a-z_]\w*)(?:, [a-z_]\w*)*): (.*)")


def setup(app: Any) -> dict[str, Any]:
    """Register the extension."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def to_rst(lines: list[str]) -> list[str]:
    """Return a docstring's lines as reStructuredText."""
    found: list[str] = []
    in_list = False
    for line in _one_each(lines):
        named = _NAMED.fullmatch(line)
        if named:
            if not in_list and found and found[-1]:
                found.append("")
            found.append(f"* **{named[1]}**: {_escape(named[2])}")
            in_list = True
        elif in_list and line and (line.startswith(" ") or not found[-1].endswith((".", ")"))):
            found.append(f"  {_escape(line.strip())}")
        else:
            if in_list and line:
                found.append("")
            in_list = False
            found.append(_escape(line))
    return found


def _one_each(lines: list[str]) -> Iterator[str]:
    """Give each named thing a line of its own: two blanks between them stand for a new line."""
    for line in lines:
        parts = re.split(r"(?<=\S)  +(?=[a-z_]\w*: )", line)
        yield from parts if _NAMED.fullmatch(parts[0].strip()) else [line]


def _escape(text: str) -> str:
    """Keep what means something to reStructuredText and is none here: \\|r\\| is no substitution."""
    return re.sub(r"(?<!`)\|(?!`)", r"\\|", text) if "``" not in text else text
