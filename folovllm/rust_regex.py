"""Regular expressions of Python's ``re``, written for a library in Rust so that they mean the same.

Python's own parser says what an expression means, whatever its flags and however it is written; a set of characters
is written as the characters that Python's ``re`` finds among all there are.
"""

import re
import sys
import warnings
from functools import lru_cache
from re import _parser  # type: ignore[attr-defined]
from typing import Any

_CATEGORIES = {
    f"CATEGORY_{no}{name}": "\\" + (letter.upper() if no else letter)
    for name, letter in (("DIGIT", "d"), ("SPACE", "s"), ("WORD", "w"))
    for no in ("", "NOT_")
}
_SURROGATES = range(0xD800, 0xE000)
_UNSUPPORTED = {
    "ASSERT": "look-around such as (?=...)",
    "ASSERT_NOT": "look-around such as (?!...)",
    "AT": r"look-around such as \b, or ^ and $ with (?m)",
    "ATOMIC_GROUP": "atomic groups such as (?>...)",
    "GROUPREF": r"backreferences such as \1",
    "GROUPREF_EXISTS": "conditions such as (?(1)...)",
    "POSSESSIVE_REPEAT": "possessive repeats such as a++",
}


def to_rust(regex: str, *, search: bool = False) -> str:
    """Return an expression that matches the same texts in Rust.

    search: its ``$`` may stand before a last line break, as for ``re.search``; not so for ``re.fullmatch``.
    A ValueError for what Python does not understand, or warns of (such as ``[[``), and for what looks around or back.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            parsed = _parser.parse(regex)
        return _sequence(parsed, parsed.state.flags, r"\n?$" if search else "$")
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise ValueError(f"must be a regular expression: {error}; got {regex!r}") from error
    except NotImplementedError as error:
        raise ValueError(f"must not have {error}; got {regex!r}") from error


def _sequence(nodes: Any, flags: int, end: str) -> str:
    return "".join(_node(str(kind), value, flags, end) for kind, value in nodes)


def _node(kind: str, value: Any, flags: int, end: str) -> str:
    if kind in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
        return _one_character(kind, value, flags)
    if kind == "SUBPATTERN":
        _, added, removed, inside = value
        return f"(?:{_sequence(inside, (flags | added) & ~removed, end)})"
    if kind == "BRANCH":
        return f"(?:{'|'.join(_sequence(each, flags, end) for each in value[1])})"
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, inside = value
        most = "" if most == _parser.MAXREPEAT else most
        return f"(?:{_sequence(inside, flags, end)}){{{least},{most}}}"
    if kind == "AT":
        anchors = {"AT_BEGINNING_STRING": "^", "AT_END_STRING": "$"}
        anchors |= {} if flags & re.MULTILINE else {"AT_BEGINNING": "^", "AT_END": end}
        if str(value) in anchors:
            return anchors[str(value)]
    raise NotImplementedError(_UNSUPPORTED.get(kind, kind))


def _one_character(kind: str, value: Any, flags: int) -> str:
    if kind == "LITERAL" and not flags & re.IGNORECASE:
        return f"\\u{{{value:x}}}"
    if kind == "ANY":
        return _characters(".", flags & re.DOTALL)
    items = value if kind == "IN" else [(kind.removeprefix("NOT_"), value)]
    negated = kind == "NOT_LITERAL" or str(items[0][0]) == "NEGATE"
    members = "".join(_member(str(each), what) for each, what in items)
    return _characters(f"[{'^' * negated}{members}]", flags & (re.IGNORECASE | re.ASCII))


def _member(kind: str, value: Any) -> str:
    """Return part of a set of Python's."""
    if kind == "CATEGORY":
        return _CATEGORIES[str(value)]
    ends = value if kind == "RANGE" else [value] if kind == "LITERAL" else []
    return "-".join(f"\\U{code:08x}" for code in ends)


@lru_cache(maxsize=1)
def _all_characters() -> str:
    return "".join(chr(code) for code in range(sys.maxunicode + 1) if code not in _SURROGATES)


@lru_cache(maxsize=1000)
def _characters(of: str, flags: int) -> str:
    """Return a set of Rust's with the characters that match Python's set ``of``."""
    spans = [found.span() for found in re.finditer(f"(?:{of})+", _all_characters(), flags)]
    codes = [[i if i < _SURROGATES.start else i + len(_SURROGATES) for i in (start, end - 1)] for start, end in spans]
    ranges = "".join(f"\\u{{{first:x}}}-\\u{{{last:x}}}" for first, last in codes)
    return f"[{ranges}]" if ranges else r"[^\u{0}-\u{10ffff}]"
