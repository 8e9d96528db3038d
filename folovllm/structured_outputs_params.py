"""Which texts a request allows: one of a list, those of a regular expression, or JSON of a schema."""

import json
import re
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

from folovllm.validation import list_of_strings


@dataclass(frozen=True)
class StructuredOutputsParams:
    """The form of a request's text; exactly one field is set. Checked when made; immutable afterwards.

    json: a JSON schema, as a dict or as text; the output is a JSON value that it allows.
    regex: a regular expression of Python's ``re``; the output is a text of which ``re.fullmatch`` says yes. What
        looks around or back (``\\b``, ``(?=...)``, ``\\1``) is not supported.
    choice: the output is one of these strings.

    (vLLM: ``sampling_params.py``, the fields of the same names.)
    """

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None

    def __post_init__(self) -> None:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        if sum(value is not None for value in given.values()) != 1:
            raise ValueError(f"structured_outputs must set exactly one of {', '.join(given)}, got {given}")
        if self.json is not None:
            object.__setattr__(self, "json", _check_schema(self.json))
        if self.regex is not None:
            _check_regex(self.regex)
        if self.choice is not None:
            choice = list_of_strings("structured_outputs.choice", self.choice)
            if not choice:
                raise ValueError("structured_outputs.choice must hold at least one string, got []")
            for each in choice:
                _check_unicode("choice", each)
            object.__setattr__(self, "choice", choice)

    def to_dict(self) -> dict[str, Any]:
        """Return the field that is set, by its name: what a vLLM server takes as ``structured_outputs``."""
        return {each.name: deepcopy(value) for each in fields(self) if (value := getattr(self, each.name)) is not None}

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema as a dict."""
        schema: dict[str, Any] = json.loads(self.json) if isinstance(self.json, str) else deepcopy(self.json or {})
        return schema


def _check_schema(schema: object) -> str | dict[str, Any]:
    """Return a schema that shares nothing with the one given."""
    if not isinstance(schema, str | dict):
        raise ValueError(f"structured_outputs.json must be a JSON schema as a dict or as text, got {schema!r}")
    try:
        parsed = json.loads(schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"structured_outputs.json must be JSON: {error}; got {schema!r}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"structured_outputs.json must be a JSON object, got {schema!r}")
    _check_unicode("json", json.dumps(parsed, ensure_ascii=False))
    return schema if isinstance(schema, str) else parsed


_SET = re.compile(r"\\.|\[\^?\]?((?:\\.|[^\]\\])*)\]", re.DOTALL)
_SET_OPERATION = re.compile(r"\[|&&|--|~~")
_POSSESSIVE = re.compile(r"[*+?]\+|\{\d*,?\d*\}\+")


def _check_regex(regex: object) -> None:
    """Refuse what Python does not understand, or understands in another way than the library that runs it."""
    if not isinstance(regex, str) or not regex:
        raise ValueError(f"structured_outputs.regex must be a non-empty string, got {regex!r}")
    _check_unicode("regex", regex)
    sets = [re.sub(r"\\.", "", found[1] or "") for found in _SET.finditer(regex)]
    if any(map(_SET_OPERATION.search, sets)):
        raise ValueError(f"structured_outputs.regex must write [ in a set as \\[, and no && -- ~~ there, got {regex!r}")
    if _POSSESSIVE.search(_SET.sub("x", regex)):
        raise ValueError(f"structured_outputs.regex must not have possessive repeats such as a++, got {regex!r}")
    try:
        re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"structured_outputs.regex must be a regular expression: {error}; got {regex!r}") from error


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"structured_outputs.{name} must be text that UTF-8 can write, got {text!r}: {error}"
        ) from None
