"""JSON schemas for the library that writes JSON: the same schema, or a narrower one where it would break its word.

The library writes a key that is not named, next to others that are, with any escapes: ``"\\u0061"`` for ``"a"``.
"""

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
    _check(schema)
    written = {key: _value(key, value) for key, value in schema.items()}
    if _named(schema) and schema.get("additionalProperties") is not False:
        required = [name for name in schema.get("required", []) if isinstance(name, str)]
        properties = written.get("properties", {})
        written["properties"] = properties | {name: True for name in required if name not in properties}
        written["additionalProperties"] = False
    return written


def _named(schema: dict[str, Any]) -> list[str]:
    """Return the keywords that tell an object's keys apart."""
    return [key for key in ("properties", "patternProperties") if isinstance(schema.get(key), dict)]


def _value(key: str, value: Any) -> Any:
    """Return the value of a keyword, written for the library."""
    if key in _DATA:
        return value
    if key == "pattern" and isinstance(value, str):
        return to_rust(value, search=True)
    if key in _NAMED and isinstance(value, dict):
        regex = key == "patternProperties"
        return {to_rust(name, search=True) if regex else name: writable(each) for name, each in value.items()}
    return [writable(each) for each in value] if isinstance(value, list) else writable(value)


def _check(schema: dict[str, Any]) -> None:
    """Refuse the keywords of one schema that cannot be held."""
    if "x-guidance" in schema:
        raise ValueError("must not have x-guidance: such options would allow texts that the schema does not")
    additional = schema.get("additionalProperties")
    if additional and additional is not True and (named := _named(schema)):
        raise ValueError(f"must not have both {named[0]} and a schema as additionalProperties, got {schema!r}")
    required = schema.get("required")
    least, sure = schema.get("minProperties"), len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int | float) and least > max(1, sure):
        raise ValueError(f"must not ask for more minProperties than it has names in required (or 1), got {schema!r}")
    reference = schema.get("$ref")
    if isinstance(reference, str) and not set(_DATA).isdisjoint(unquote(reference).split("/")):
        raise ValueError(f"must not have a $ref into {', '.join(_DATA)}, got {reference!r}")
