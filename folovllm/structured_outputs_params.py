"""Which texts a request allows: one of a list, those of a regular expression, or JSON of a schema."""

import json
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

from folovllm.json_schema import writable
from folovllm.rust_regex import to_rust
from folovllm.validation import items, list_of_strings, plain


@dataclass(frozen=True)
class StructuredOutputsParams:
    """The form of a request's text; exactly one field is set. Checked when made; immutable afterwards.

    json: a JSON schema, as a dict or as text; the output is a JSON value that it allows. Not every such value can
        come: objects with ``properties`` or ``patternProperties`` get no other keys (``additionalProperties`` must be
        left out, true or false), keys come in the schema's order, and strings hold no needless escapes.
    regex: a regular expression of Python's ``re``; the output is a text of which ``re.fullmatch`` says yes. What
        looks around or back (``\\b``, ``(?=...)``, ``\\1``) is not supported.
    choice: the output is one of these strings. A string that begins another one is followed by a token that ends the
        text; with ``ignore_eos`` and no ``stop_token_ids`` there is none, and only the longer one can come.

    ``stop_token_ids`` must not be text here, and end only complete texts; ``stop`` strings and ``max_tokens`` cut a
    text wherever they come.

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
        parsed = json.loads(schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False, default=_plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"structured_outputs.json must be JSON: {error}; got {schema!r}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"structured_outputs.json must be a JSON object, got {schema!r}")
    _check_unicode("json", json.dumps(parsed, ensure_ascii=False))
    try:
        writable(parsed)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"structured_outputs.json {error}") from error
    return schema if isinstance(schema, str) else parsed


def _plain(value: object) -> object:
    """Return a NumPy or PyTorch value in a schema as Python's own."""
    number, listed = plain(value), items(value)
    if number is value and listed is None:
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
    return number if listed is None else listed


def _check_regex(regex: object) -> None:
    """Refuse what Python does not understand, or the library that runs it."""
    if not isinstance(regex, str) or not regex:
        raise ValueError(f"structured_outputs.regex must be a non-empty string, got {regex!r}")
    _check_unicode("regex", regex)
    try:
        to_rust(regex)
    except ValueError as error:
        raise ValueError(f"structured_outputs.regex {error}") from error


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"structured_outputs.{name} must be text that UTF-8 can write, got {text!r}: {error}"
        ) from None
