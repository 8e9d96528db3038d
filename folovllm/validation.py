"""The words in which configs and sampling parameters say what they accept.

Each function takes the name of a field and the value given, and returns the value in its canonical
type or raises a ValueError that names the field, the value, and what is allowed.
"""

import copy
import difflib
import math
import operator
from collections.abc import Collection, Iterable, Sequence
from numbers import Real
from typing import Any


def _reject(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"{name} must be {allowed}, got {value!r}")


def _range(minimum: float | None, maximum: float | None, above: bool) -> str:
    bounds = []
    if minimum is not None:
        bounds.append(f"{'>' if above else '>='} {minimum}")
    if maximum is not None:
        bounds.append(f"<= {maximum}")
    return " and ".join(bounds)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return a hint to the known name that is most like an unknown one, to be put behind it; "" if none is."""
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def plain(value: Any) -> Any:
    """Return a NumPy scalar, or a tensor without dimensions, as Python's own; anything else as it is."""
    try:
        return value.item() if value.shape == () else value
    except (AttributeError, RuntimeError):  # no array; or a tensor without a shape (nested) or without values (meta)
        return value


def items(value: Any) -> list[Any] | None:
    """Return the elements of a list, tuple, range or other sequence, or of an array or tensor; None for all else.

    Text and bytes are no lists of anything here; a set has no order, and an iterator can be read only once.
    """
    if isinstance(value, str | bytes | bytearray | memoryview):
        return None
    if isinstance(value, Sequence):
        return list(value)
    try:
        return list(value.tolist()) if value.shape else None
    except (AttributeError, RuntimeError, TypeError):  # no array; or a tensor that is sparse, quantized, nested or meta
        return None


def whole_number(name: str, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    """Accept an int (NumPy's and PyTorch's too, but no bool and no float) within the bounds."""
    allowed = " ".join(["an int", _range(minimum, maximum, above=False)]).strip()
    number = plain(value)
    if isinstance(number, bool) or hasattr(number, "tolist"):  # a tensor of one element counts as an index
        raise _reject(name, value, allowed)
    try:
        number = operator.index(number)
    except TypeError:
        raise _reject(name, value, allowed) from None
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise _reject(name, value, allowed)
    return int(number)


def real_number(
    name: str, value: Any, minimum: float | None = None, maximum: float | None = None, above: bool = False
) -> float:
    """Accept a finite int or float (NumPy's too, but no bool) within the bounds; ``above``: not the minimum itself."""
    allowed = " ".join(["a finite number", _range(minimum, maximum, above)]).strip()
    given = plain(value)
    if isinstance(given, bool) or not isinstance(given, Real):
        raise _reject(name, value, allowed)
    try:
        number = float(given)
    except OverflowError:  # an int beyond the largest float
        raise _reject(name, value, allowed) from None
    too_small = minimum is not None and (number < minimum or (above and number == minimum))
    if not math.isfinite(number) or too_small or (maximum is not None and number > maximum):
        raise _reject(name, value, allowed)
    return number


def true_or_false(name: str, value: Any) -> bool:
    """Accept True or False (NumPy's too) and nothing that merely counts as such."""
    if not isinstance(plain(value), bool):
        raise _reject(name, value, "True or False")
    return bool(value)


def non_empty_string(name: str, value: Any) -> str:
    """Accept a string with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise _reject(name, value, "a non-empty string")
    return str.__str__(value)  # of a subclass such as NumPy's too


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """Accept one of the listed strings."""
    if not isinstance(value, str) or value not in choices:
        raise _reject(name, value, f"one of {', '.join(map(repr, choices))}")
    return str.__str__(value)


def list_of_ints(name: str, value: Any, minimum: int = 0) -> list[int]:
    """Accept a sequence, array or set of ints; returns a new list."""
    listed = list(value) if isinstance(value, set | frozenset) else items(value)
    if listed is None:
        raise _reject(name, value, "a list of ints")
    return [whole_number(f"{name}[{i}]", item, minimum) for i, item in enumerate(listed)]


def list_of_strings(name: str, value: Any) -> list[str]:
    """Accept a sequence or array of non-empty strings; returns a new list."""
    listed = items(value)
    if listed is None:
        raise _reject(name, value, "a list of strings")
    for i, item in enumerate(listed):
        if not isinstance(item, str) or not item:
            raise _reject(f"{name}[{i}]", item, "a non-empty string")
    return [str.__str__(item) for item in listed]


def dict_of_names(name: str, value: Any) -> dict[str, Any]:
    """Accept a dict whose keys are strings; returns a copy of all of it."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise _reject(name, value, "a dict with strings as keys (or a function)")
    return copy.deepcopy(value)
