"""Wrong answers to the exercises of ``folovllm.course.exercises.loading``."""

from collections.abc import Callable
from typing import Any

WRONG: dict[str, list[Callable[..., Any]]] = {}
EQUIVALENT: dict[str, dict[str, str]] = {}
