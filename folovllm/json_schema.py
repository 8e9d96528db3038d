"""JSON schemas for the library that writes JSON: the same schema, or a narrower one where it would break its word.

The library writes a key that is not named, next to others that are, with any escapes: ``"\\u0061"`` for ``"a"``.
"""

import re
from typing import Any
from urllib.parse import unquote

from folovllm.rust_regex import to_rust

_DATA = ("const", "enum", "default", "examples")
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def writable(schema: Any) -> Any:
    """Return a schema all of whose texts, as the library writes them, the given one allows.

    An object with ``properties`` or ``patternProperties`` gets no other keys. Regular expressions are Python's.
    A ValueError, a sentence without its subject, for what cannot be held.
    """
    if not isinstance(schema, dict):
        return schema
    for key, kind in (("properties", dict), ("patternProperties", dict), ("required", list)):
        if not isinstance(schema.get(key, kind()), kind):
            raise ValueError(f"must have a {kind.__name__} as {key}, got {schema!r}")
    written = {key: _value(key, value) for key, value in schema.items()}
    _check(schema)
    if _named(schema) and schema.get("additionalProperties") is not False:
        known, patterns = written.get("properties", {}), schema.get("patternProperties", {})
        free = [name for name in schema.get("required", []) if str(name) not in known and not _matched(name, patterns)]
        written["properties"] = known | {str(name): True for name in free}
        written["additionalProperties"] = False
    return written


def _named(schema: dict[str, Any]) -> list[str]:
    """Return the keywords that tell an object's keys apart."""
    return [key for key in ("properties", "patternProperties") if key in schema]


def _matched(name: str, patterns: dict[str, Any]) -> bool:
    return any(re.search(pattern, str(name)) for pattern in patterns)


def _value(key: str, value: Any) -> Any:
    """Return the value of a keyword, written for the library."""
    if key in _DATA:
        return value
    if key == "pattern" and isinstance(value, str):
        return to_rust(value, search=True)
    if key in _NAMED and isinstance(value, dict):
        regex = key == "patternProperties"
        named = {to_rust(name, search=True) if regex else name: writable(each) for name, each in value.items()}
        if len(named) < len(value):
            raise ValueError(f"must not write the same patternProperties in two ways, got {[*value]}")
        return named
    return [writable(each) for each in value] if isinstance(value, list) else writable(value)


def _check(schema: dict[str, Any]) -> None:
    """Refuse the keywords of one schema that cannot be held."""
    if "x-guidance" in schema:
        raise ValueError("must not have x-guidance: such options would allow texts that the schema does not")
    additional = schema.get("additionalProperties")
    if additional and additional is not True and (named := _named(schema)):
        raise ValueError(f"must not have both {named[0]} and a schema as additionalProperties, got {schema!r}")
    if both := [name for name in schema.get("properties", {}) if _matched(name, schema.get("patternProperties", {}))]:
        raise ValueError(f"must not have properties that match patternProperties, got {both} in {schema!r}")
    least, sure = schema.get("minProperties"), len(set(map(str, schema.get("required", []))))
    if isinstance(least, int | float) and least > max(1, sure):
        raise ValueError(f"must not ask for more minProperties than it has names in required (or 1), got {schema!r}")
    reference = schema.get("$ref")
    if isinstance(reference, str) and not set(_DATA).isdisjoint(unquote(reference).split("/")):
        raise ValueError(f"must not have a $ref into {', '.join(_DATA)}, got {reference!r}")
