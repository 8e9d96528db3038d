"""``check_params``: is a learner's parameter there, checked, and the others as before?"""

import math
from dataclasses import fields
from itertools import product
from typing import Any

import torch

from folovllm.course.exercises.exercise import NOT_ATTEMPTED
from folovllm.course.exercises.patterns.named_error import named
from folovllm.course.exercises.time_limit import SECONDS, TimeIsUp, call_in_time
from folovllm.language import _
from folovllm.sampling_params import SamplingParams

_ALLOWED: tuple[Any, ...] = (0, 0.0, -0.0, 3e-4, 0.02, 0.5, 0.999, 1e-9, math.nextafter(0, 1), math.nextafter(1, 0))
_REFUSED: tuple[Any, ...] = (
    *(-0.1, 1, 1.0, 1.5, math.nan, math.inf, -math.inf, -1e-9, math.nextafter(0, -1), math.nextafter(1, 2)),
    *(2, 7, 30.0, 1e300, -2, -7, -30.0, -1e300, 2**1024),  # no float holds the last one
    *("0.1", "0.5", "nan", "", b"0.1", None, [0.1], [], (0.1,), (), {}, {0.1}, torch.tensor([0.1])),
    *(True, False, 0.5 + 0j, 0.5j),
)
_OTHER_SETTINGS: dict[str, Any] = {
    "n": 2,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 3,
    "max_tokens": 24,
    "stop": ["."],
}


def check_params(params_class: type[SamplingParams]) -> None:
    """Print what to make of a class of parameters with a checked field ``epsilon``."""
    print(_("the parameter: {verdict}").format(verdict=judge_params(params_class)))


def judge_params(params_class: Any) -> str:
    """Say what to make of a class of parameters; it begins with ✔ if that is right."""
    if problem := no_class_problem(params_class):
        return problem
    try:
        return call_in_time(SECONDS, _judge_class, params_class)
    except TimeIsUp as late:
        return _("not yet: your code {late}").format(late=late)
    except SystemExit as error:
        return _("not yet: your code raises {named}").format(named=named(error))


def no_class_problem(params_class: Any) -> str:
    """Say what stands in the place of a class of parameters; "" if it is one."""
    if not isinstance(params_class, type):
        given = _("an object of {name}").format(name=type(params_class).__name__)
    elif not issubclass(params_class, SamplingParams):
        given = params_class.__name__
    else:
        return ""
    return _("not yet: give the class itself, a subclass of SamplingParams; got {given}").format(given=given)


def _judge_class(params_class: Any) -> str:
    try:
        params_class()
    except NotImplementedError:
        return _(NOT_ATTEMPTED)
    except Exception as error:
        return _("not yet: without arguments it must be made, with epsilon 0; it raises {named}").format(
            named=named(error)
        )
    return (
        _own_problem(params_class)
        or _kept_problem(params_class)
        or _(
            "✔ right: it takes {num_allowed} values, refuses {num_refused}, and checks the other fields as before"
        ).format(num_allowed=len(_ALLOWED), num_refused=len(_REFUSED))
    )


def _own_problem(params_class: Any) -> str:
    """Say what is wrong with the field itself; "" if nothing."""
    made = params_class()
    if not hasattr(made, "epsilon"):
        return _("not yet: there is no field epsilon")
    if "epsilon" not in {each.name for each in fields(params_class)}:
        return _("not yet: epsilon is no field of the class; is @dataclass(frozen=True) on the line above it?")
    if made.epsilon != 0:
        return _("not yet: the field epsilon must be 0 when nobody sets it")
    for value in _ALLOWED:
        try:
            stored = params_class(epsilon=value).epsilon
        except Exception as error:
            return _("not yet: epsilon={value} is allowed, and is refused with {named}").format(
                value=_short(value), named=named(error)
            )
        if stored != value:
            return _("not yet: epsilon={value} is stored as {stored!r}").format(value=_short(value), stored=stored)
    for value, others in product(_REFUSED, ({}, {"temperature": 0})):
        try:
            params_class(epsilon=value, **others)
        except ValueError as error:
            if "epsilon" not in str(error) or str(value) not in str(error):
                return _(
                    "not yet: epsilon={value} is refused, but the message does not name both the field and "
                    "the value: {error}"
                ).format(value=_short(value), error=error)
        except Exception as error:
            return _("not yet: epsilon={value} must be refused with a ValueError, not with {named}").format(
                value=_short(value), named=named(error)
            )
        else:
            why = (
                _("True and False are no numbers (chapter 01)")
                if isinstance(value, bool)
                else _("only numbers from 0 to below 1 are allowed")
            )
            return _("not yet: epsilon={value} is accepted; {why}").format(value=_short(value), why=why)
    return ""


def _short(value: Any) -> str:
    """Return a value as ``repr`` does, and of a very long one its ends."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:20]}...{text[-5:]}"


def _kept_problem(params_class: Any) -> str:
    """Say what of SamplingParams got lost; "" if nothing."""
    for name, value in {"temperature": -1.0, "top_p": 0.0, "stop": [""]}.items():
        for epsilon in _ALLOWED:
            try:
                params_class(epsilon=epsilon, **{name: value})
            except ValueError:
                continue
            return _(
                "not yet: {name}={value!r} is accepted; SamplingParams' own checks run in super().__post_init__()"
            ).format(name=name, value=value)
    for epsilon in _ALLOWED:
        for settings in ({}, _OTHER_SETTINGS, {"temperature": 0}):
            try:
                made, plain = params_class(epsilon=epsilon, **settings), SamplingParams(**settings)
            except ValueError as error:
                return _("not yet: with epsilon={epsilon!r}, {settings} is refused with {named}").format(
                    epsilon=epsilon, settings=settings, named=named(error)
                )
            for each in fields(SamplingParams):
                given, wanted = getattr(made, each.name), getattr(plain, each.name)
                if given != wanted:
                    return _(
                        "not yet: with epsilon={epsilon!r} your class makes {name}={given!r} of {wanted!r}"
                    ).format(epsilon=epsilon, name=each.name, given=given, wanted=wanted)
    return "" if params_class(epsilon=0.02).clone().epsilon == 0.02 else _("not yet: clone() loses the epsilon")
