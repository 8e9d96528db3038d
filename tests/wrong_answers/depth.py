"""Answers that are right but for their depth."""

from collections.abc import Callable
from typing import Any


def call_for_each(solution: Callable[..., Any]) -> Callable[..., Any]:
    """Return a solution behind as many nested calls as its first argument is long: too many for a long one."""

    def nested(depth: int, *arguments: Any) -> Any:
        return nested(depth - 1, *arguments) if depth else solution(*arguments)

    def a_call_for_each(*arguments: Any) -> Any:
        return nested(len(arguments[0]), *arguments)

    return a_call_for_each
