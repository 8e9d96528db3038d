"""What an error's message says of a block size: the field, what is allowed and what was given; nothing false.

A learner writes it in words of their own, so it is read clause by clause. Every int from 1 up is allowed, and nothing
else: what a message says beyond that narrows it ("even", "at most 64") or widens it ("or None").
"""

import re
from typing import Any

from folovllm.course.exercises.outcome import Case, Outcome
from folovllm.language import _

_INT = r"(?:int|integer|whole number|natural number)s?"
_NUMBER = r"(-?\d+(?:\.\d+)?|zero|one)\b"
_FROM_ONE = ">= 1"
_LISTED = re.compile(r"(?<!\b0, )\b1, ?2(?:, ?\d+)*,? ?(?:\.\.\.|…|and so on|etc)")
"""All that is allowed, counted up: it says "from 1 on"."""
_MORE, _LESS = r"(?:greater|larger|more|bigger|higher)", r"(?:less|smaller|lower|fewer)"
_BOUNDS = {
    rf"(?:>=|≥|at least|equal to|from|minimum(?: is| of)?) ?{_NUMBER}": "1",
    rf"(?:(?:not|cannot)(?: be)?|no) (?:<|below|under|{_LESS} than) ?{_NUMBER}": "1",
    rf"{_NUMBER} (?:or|and) (?:{_MORE}|above|up)": "1",
    rf"(?:>|above|over|{_MORE} than) ?{_NUMBER}": "0",
    rf"\[{_NUMBER}, ?(?:inf|∞)": "1",
    rf"\({_NUMBER}, ?(?:inf|∞)": "0",
    rf"{_NUMBER} ?(?:<=|≤) ?(?:block_size|value)": "1",
    rf"{_NUMBER} ?< ?(?:block_size|value)": "0",
}
"""Ways to say from where on an int is allowed, and the number that is right in each."""
_POSITIVE = "|".join(
    (
        r"(?<!non-)(?<!not )(?<!not be )(?<!not be a )\bpositive",
        r"\bnatural number",
        r"\bnot (?:be )?(?:0|zero) (?:or|nor|and) (?:negative|less)",
        r"\b(?:not|neither) (?:be )?negative (?:or|nor) (?:0|zero)",
        r"\bneither (?:0|zero) nor (?:negative|less)",
    )
)

_UPPER = rf"(?:<=?|≤|below|under|{_LESS} than)"
_FALSE = "|".join(
    (
        rf"not be (?:an? )?{_INT}",
        rf"(?<!not )be (?:an? )?(?:{_INT} )?<",
        rf"\band {_UPPER}",
        rf"\b{_INT} or (?:be )?(?:>|≥|at least|positive|above|over|{_MORE} than)",
        r"at most|up to|no more than|(?<!no )\bmaximum|\bmax\b",
        r"(?:from|between) (?:1|one) (?:to|and) (?!inf|∞|any|up|more|above)",
        rf"(?<!is )(?<!was )\bnot (?:be )?(?:>|≥|at least|{_MORE} than)",
        r"positive or (?:0|zero)|(?:0|zero) or positive|power of|multiple of",
        r"\b(?:two|three|four|eight|ten|sixteen|thirty|sixty|hundred|thousand|million)\b",
    )
)
_NARROWS_OR_WIDENS = re.compile(
    r"\b(?:even(?! if| though)|odd|prime|floats?|bools?|booleans?|true|false|strs?|strings?|texts?|none|null|lists?)\b"
    r"|\bor (?:an? )?(?:0|zero)\b|\bpositive or negative\b"
)
_NOT = re.compile(
    r"\b(?:not|no|nor|never|neither|cannot|without|except|excluding|refused?|excluded|forbidden|invalid|wrong)\b|n't\b"
)
_CLAUSES = re.compile(r"[;:()]|\.\s|\b(?:but|must|should|may|only)\b")
_EXAMPLE = re.compile(
    r"\b(?:e\.g\.|for example|for instance|such as|like|try|default\w*|usual\w*|typical\w*)[^\d;.]{0,12}\d[\d, or]*"
)
_NAMES = {bool: "bools?|booleans?", str: "strs?|strings?|texts?", float: "floats?", list: "lists?", type(None): "none"}
"""What a value's type may be called where a message says what was given."""


def message_has_three_parts(case: Case, outcome: Outcome) -> str:
    """Ask of an error's message that it names the field, says what is allowed and shows the value as Python does."""
    if not isinstance(outcome.error, ValueError):
        return ""
    if len(outcome.error.args) > 1:
        return _("your ValueError has {num_args} arguments, with commas between; write one text, f'...'").format(
            num_args=len(outcome.error.args)
        )
    message = str(outcome.error)
    faults = (
        "" if "block_size" in message else _("does not show the field, block_size"),
        _what_was_given(case[0], message),
        _what_is_allowed(case[0], message.lower()),
    )
    fault = next(filter(None, faults), "")
    return (
        _("your ValueError {fault}; its message reads {message!r}").format(fault=fault, message=message)
        if fault
        else ""
    )


def _what_was_given(value: Any, message: str) -> str:
    """Return what is wrong with how a message shows a value; "" if as repr() does, neither quoted nor lengthened."""
    written = re.escape(repr(value))
    alone = rf"(?<!\d)(?<!\d\.){written}(?!\.?\d)"
    if re.search(alone, re.sub(rf"(['\"]){written}\1", "", message)):
        return ""
    fault = (
        _("puts quotes around what `repr()` writes, {case!r}")
        if re.search(alone, message)
        else _("does not show what was given as `repr()` writes it, {case!r}")
    )
    return fault.format(case=value)


def _what_is_allowed(value: Any, message: str) -> str:
    """Return what is wrong with a message's words about what is allowed; "" if nothing."""
    message = _LISTED.sub(_FROM_ONE, message)
    if re.search(_FALSE, message) or _is_bound_right(message) is False or _says_too_much(value, message):
        return _("says something false: every int from 1 up is allowed, and nothing else")
    if type(value) is int:
        is_said = _is_bound_right(message)
        return (
            ""
            if is_said
            else _("does not show what is allowed: {value!r} is an int, so say which ints are allowed").format(
                value=value
            )
        )
    return "" if re.search(rf"\b{_INT}\b", message) else _("does not show what is allowed, an int")


def _is_bound_right(message: str) -> bool | None:
    """Return whether a message says rightly which ints are allowed; None if it does not say it."""
    found = [(number, right) for way, right in _BOUNDS.items() for number in re.findall(way, message)]
    if any({"zero": "0", "one": "1"}.get(number, number) != right for number, right in found):
        return False
    return True if found or re.search(_POSITIVE, message) else None


def _says_too_much(value: Any, message: str) -> bool:
    """Return whether a message names another type, another kind of int or a number that bounds nothing.

    What it says of the value that was given, and of what is refused, is no such thing.
    """
    words = _EXAMPLE.sub("", message.replace(repr(value).lower(), ""))
    words = re.sub(rf"\b(?:{_NAMES.get(type(value), type(value).__name__)})\b", "", words)
    if any(number not in ("0", "1") for number in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", words)):
        return True
    return any(_NARROWS_OR_WIDENS.search(clause) and not _NOT.search(clause) for clause in _CLAUSES.split(words))
