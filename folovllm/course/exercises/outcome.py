"""What a learner's function did with one input, whether two such outcomes are the same, and how to say one in short."""

import contextlib
import copy
import io
import math
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from torch import Tensor, allclose, get_default_dtype, set_default_dtype

from folovllm.course.exercises.time_limit import TimeIsUp
from folovllm.language import _

Answer = Callable[..., Any]
Case = tuple[Any, ...]
_TOLERANCE = 1e-5
_DIGITS = range(3, 10)
_DIGITS_OF_ARGUMENTS = range(6, 18)  # 17 tell any two floats apart


@dataclass(frozen=True)
class Outcome:
    """value: what a function returned, unless it raised ``error``; a copy, where one can be made.

    live: what it returned itself, which later calls may change.
    changed: the place of the first argument that was not afterwards exactly what it had been; None: none.
    returned: the place of the first argument that the value is, contains, or is a view of; None: none.
    memory: where ``live`` lies, of what can be changed in it.
    printed: what the function printed meanwhile.
    """

    value: Any = None
    live: Any = None
    error: BaseException | None = None
    changed: int | None = None
    returned: int | None = None
    printed: str = ""
    memory: frozenset[int] = frozenset()

    @property
    def is_late(self) -> bool:
        """Whether the function was stopped because it took too long."""
        return isinstance(self.error, TimeIsUp)

    @property
    def was_changed_later(self) -> bool:
        """Whether a later call changed what this one returned."""
        return self.live is not self.value and not same(self.live, self.value, tolerance=0)

    def is_like(self, other: "Outcome") -> bool:
        """Return whether both did the same: values within 1e-5, errors of one kind.

        The value must be new where the other's is: a caller who later changes an argument would change it too.
        """
        if self.changed != other.changed or (self.error is None) != (other.error is None):
            return False
        if other.error is not None:
            return isinstance(self.error, type(other.error))
        return same(self.value, other.value) and (self.returned is None or other.returned is not None)


def try_out(function: Answer, case: Case) -> Outcome:
    """Call a function with copies of a case's arguments; whatever it does short of an interrupt is its outcome."""
    return _call(function, case, list(map(_fresh, case)))


def try_out_refilled(function: Answer, case: Case, before: Case) -> Outcome:
    """Call a function with another case first, and then with this one in the same objects, as far as it fits."""
    used = list(map(_fresh, before))
    _call(function, before, used)
    return _call(function, case, list(map(_refilled, used, case)))


def _call(function: Answer, case: Case, arguments: list[Any]) -> Outcome:
    """Return what a function does with arguments that are equal to a case's."""
    comparable = _unchanged(arguments, case)  # a copy of an object that knows no equality is never equal
    printed = io.StringIO()
    value, error = None, None
    dtype = get_default_dtype()
    try:
        with contextlib.redirect_stdout(printed), np.errstate():
            value = function(*arguments)
    except (Exception, SystemExit) as raised:
        error = raised
    finally:  # what an answer sets for all must not reach the next one's
        set_default_dtype(dtype)
    kept = _unchanged(arguments, case)
    changed = next((i for i, (was, stays) in enumerate(zip(comparable, kept, strict=True)) if was and not stays), None)
    places = _places(value)
    returned = next((i for i, argument in enumerate(arguments) if places & _places(argument)), None)
    return Outcome(_copy(value), value, error, changed, returned, printed.getvalue(), places)


def _fresh(value: Any) -> Any:
    """Return a copy that shares no memory; ``deepcopy`` gives bytes themselves, of which a tensor may be a view."""
    return bytes(bytearray(value)) if type(value) is bytes else copy.deepcopy(value)


def _refilled(used: Any, value: Any) -> Any:
    """Return an object that was something else before, with a value's content; a copy where it does not fit."""
    if isinstance(used, Tensor) and what_stays(used) == what_stays(value):
        return used.copy_(value)
    if type(used) is list:
        used[:] = _fresh(value)
        return used
    return used if same(used, value, tolerance=0) else _fresh(value)


def what_stays(value: Any) -> Any:
    """Return what stays of an object when it is filled anew; all of it where that is not possible."""
    if isinstance(value, Tensor):
        return [list(value.shape), str(value.dtype)]
    return [] if type(value) is list else value


def _unchanged(arguments: list[Any], case: Case) -> list[bool]:
    return [same(*each, tolerance=0) for each in zip(arguments, case, strict=True)]


def _copy(value: Any) -> Any:
    """Return a copy that is equal; the value itself where there is none."""
    try:
        copied = copy.deepcopy(value)
    except Exception:
        return value
    return copied if same(copied, value, tolerance=0) else value


def _places(value: Any) -> frozenset[int]:
    """Return where in memory the lists, dicts and numbers of tensors lie that a value is made of."""
    places: dict[int, type] = {}
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, Tensor):
            places[_place_of_numbers(part)] = Tensor
        elif type(part) in (list, tuple, dict) and id(part) not in places:  # a list may contain itself
            places[id(part)] = type(part)
            left += part.values() if type(part) is dict else part
    return frozenset(place for place, kind in places.items() if kind is not tuple)  # a tuple cannot be changed


def _place_of_numbers(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except Exception:  # of a kind that keeps them elsewhere: sparse, say
        return id(tensor)


def same(given: Any, expected: Any, tolerance: float = _TOLERANCE) -> bool:
    """Return whether two values are of one kind and equal, numbers nearly so; raises nothing, whatever is given."""
    try:
        return _same(given, expected, tolerance)
    except Exception:  # of a kind that cannot be compared: a tensor without data, a list that contains itself
        return False


def _same(given: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(given, Tensor) and isinstance(expected, Tensor):
        return _same_tensors(given, expected, tolerance)
    if type(given) is not type(expected):
        return False
    if isinstance(expected, float):
        close = math.isclose(given, expected, rel_tol=tolerance, abs_tol=tolerance)
        return close or (math.isnan(given) and math.isnan(expected))
    if isinstance(expected, list | tuple):
        return len(given) == len(expected) and all(map(_same, given, expected, repeat(tolerance)))
    if isinstance(expected, dict):
        return given.keys() == expected.keys() and all(_same(given[key], expected[key], tolerance) for key in expected)
    return bool(given == expected)


def _same_tensors(given: Tensor, expected: Tensor, tolerance: float) -> bool:
    if given.shape != expected.shape or _kind_of_numbers(given) != _kind_of_numbers(expected):
        return False
    given, expected = given.detach().double().cpu(), expected.detach().double().cpu()
    return allclose(given, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def _kind_of_numbers(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return dtype if dtype in ("bool", "complex64", "complex128") else "float" if dtype[0] in "fb" else "int"


def describe_difference(
    given: Outcome, expected: Outcome, case: Case, names: tuple[str, ...], may_be_none: bool
) -> str:
    """Say what an outcome is and what it should have been, in one sentence that shows where they differ.

    names: of the function's arguments.  may_be_none: None is right for some case, and no sign of a missing ``return``.
    """
    if given.changed is not None and expected.changed is None and not given.is_late:
        name = names[given.changed]
        return _(
            "your function changes its argument `{name}`, which belongs to the caller; work on a copy of it"
        ).format(name=name)
    if given.returned is not None and given.error is None and same(given.value, expected.value):
        name = names[given.returned]
        return _(
            "your function returns its argument `{name}` itself, or a view of it: the result changes when the caller "
            "changes the argument later; return a copy of it"
        ).format(name=name)
    told, wanted = _tell(given), _tell(expected)
    if given.error is None and expected.error is None:
        kinds = kind_of(given.value), kind_of(expected.value)
        if kinds[0] != kinds[1]:
            reason = _("; is a `return` with a value reached?") if given.value is None and not may_be_none else ""
            shown = kinds[0] if given.value is None else _of_kind(kinds[0], show(given.value))
            right = kinds[1] if expected.value is None else _of_kind(kinds[1], show(expected.value))
            told = _("your function returns {given}; right: {expected}{reason}")
            return told.format(given=shown, expected=right, reason=reason)
        told, wanted = (_("returns {value}").format(value=each) for each in show_apart(given.value, expected.value))
        wanted += _kinds_apart(given.value, expected.value)
    return _("your function {told}; right: it {wanted}").format(told=told, wanted=wanted)


def _tell(outcome: Outcome) -> str:
    if outcome.error is None:
        return _("returns {value}").format(value=show(outcome.value))
    if outcome.is_late:
        return str(outcome.error)
    text = " ".join(safely(str, outcome.error).split())
    name = type(outcome.error).__name__
    if not text:
        return _("raises {name} without a message").format(name=name)
    return _("raises {name}: {text}").format(name=name, text=_cut(text, 150))


def kind_of(value: Any) -> str:
    """Return the kind of a value in words: "a list", "a tensor of float32, shape [2, 3]"."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return _("a tensor of {dtype}, shape {shape}").format(dtype=dtype, shape=list(value.shape))
    if isinstance(value, BaseException):
        return _("a {name} (it must be raised, not returned)").format(name=type(value).__name__)
    name = type(value).__name__
    is_vowel = name[0] in "aeioAEIO" or name.startswith("nd")  # a uint8, but an ndarray
    return (_("an {name}") if is_vowel else _("a {name}")).format(name=name)


def show(value: Any, digits: int = 3) -> str:
    """Return a value as short text; at most a line, whatever it is."""
    return _show_with(lambda x: _show_float(x, digits), value)


def show_arguments(case: Case) -> list[str]:
    """Return a case's arguments as short text, with the digits that tell its numbers apart, and from whole ones.

    What is right may turn on it that a number is not 0, not 1, or not the same as another.
    """
    numbers = {x for x in _floats(case) if math.isfinite(x)}
    numbers |= {float(round(x)) for x in numbers}

    def rounded(x: float, digits: int) -> float:
        return float(f"{x:.{digits}g}")

    enough = next(n for n in _DIGITS_OF_ARGUMENTS if len({rounded(x, n) for x in numbers}) == len(numbers))
    return [_show_with(lambda x: repr(rounded(x, enough)), argument) for argument in case]


def _floats(value: Any) -> Iterator[float]:
    """Return the numbers with a point in an argument: those of tensors, lists, tuples and dicts."""
    if type(value) is float:
        yield value
    elif isinstance(value, Tensor | list | tuple | dict):
        parts = value.flatten().tolist() if isinstance(value, Tensor) else value
        for part in parts.values() if isinstance(parts, dict) else parts:
            yield from _floats(part)


def _show_with(float_text: Callable[[float], str], value: Any) -> str:
    lines = safely(_Shown(float_text).repr, value).splitlines()
    return _cut(" ".join(map(str.strip, lines)), 120)


def show_apart(given: Any, expected: Any) -> tuple[str, str]:
    """Return both values as text, with as many digits as they need to differ."""
    for digits in _DIGITS:
        shown = show(given, digits), show(expected, digits)
        if shown[0] != shown[1]:
            return shown
    place, one, other = _first_difference(given, expected)
    told = _("{value} at {place}")
    return tuple(told.format(value=show(each, _DIGITS[-1]), place=place) for each in (one, other))  # type: ignore[return-value]


def _kinds_apart(given: Any, expected: Any) -> str:
    """Say where two values of one kind have parts of two kinds, and which; "" if they differ otherwise first."""
    place, one, other = _first_difference(given, expected)
    if not place.startswith("[") or type(one) is type(other):
        return ""
    return _("; at {place}: {given}; right: {expected}").format(place=place, given=_part(one), expected=_part(other))


def _part(value: Any) -> str:
    if value is None:
        return "None"
    kind = _("a tensor") if isinstance(value, Tensor) else kind_of(value)
    return _of_kind(kind, show([value])[1:-1])


def _of_kind(kind: str, value: str) -> str:
    return _("{kind}, {value}").format(kind=kind, value=value)


def _first_difference(given: Any, expected: Any, place: str = "") -> tuple[str, Any, Any]:
    """Return where two values of one kind differ first, and what stands there."""
    one, other = given, expected
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        with contextlib.suppress(Exception):  # a tensor without such a list differs as a whole
            one, other = one.tolist(), other.tolist()
    if isinstance(other, list | tuple) and isinstance(one, list | tuple):
        if len(one) != len(other):
            length = _("{place} length").format(place=place) if place else _("its length")
            return length, len(one), len(other)
        for i, pair in enumerate(zip(one, other, strict=True)):
            if not same(*pair):
                return _first_difference(*pair, f"{place}[{i}]")
    return place or _("the end"), one, other


class _Shown(reprlib.Repr):
    """reprlib's short forms: numbers as ``float_text``, tensors as lists; those in a value or of one number say so."""

    def __init__(self, float_text: Callable[[float], str]) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 12
        self.maxstring = self.maxother = 80
        self._float_text = float_text

    def repr1(self, x: Any, level: int) -> str:
        if isinstance(x, Tensor):
            numbers = self.repr1(x.tolist(), level)
            return numbers if level == self.maxlevel and x.dim() else f"tensor({numbers})"
        if type(x) is float:
            return self._float_text(x)
        return super().repr1(x, level)


def _show_float(x: float, digits: int) -> str:
    """Return a number with so many decimals; a small one, of which these would lose most, with so many digits."""
    if _TOLERANCE <= abs(x) < 10.0 ** (1 - digits):  # what is smaller counts as 0
        return f"{x:.{digits}g}"
    return repr(round(x, digits)) if abs(x) < 1e6 else f"{x:.{digits}e}"


def safely(text_of: Callable[[Any], str], value: Any) -> str:
    """Return a text of a value, even if its own ``__repr__`` or ``__str__`` fails."""
    try:
        return text_of(value)
    except Exception:
        return f"<{type(value).__name__}>"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
