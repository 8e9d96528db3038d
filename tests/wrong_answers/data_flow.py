"""Wrong answers to the exercises of ``folovllm.course.exercises.data_flow``."""

from collections.abc import Callable
from typing import Any

WRONG: dict[str, list[Callable[..., Any]]] = {}
EQUIVALENT: dict[str, dict[str, str]] = {}
