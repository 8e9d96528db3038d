"""What the notebooks show: widgets and figures over the engine's own functions. The engine never imports it.

Importing it is cheap, since commands have their rooms here; the first name that is asked for brings all of ``public``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from folovllm.collector import collector_paused

if TYPE_CHECKING:
    from folovllm.course.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    with collector_paused():
        return getattr(import_module("folovllm.course.public"), name)


def __dir__() -> list[str]:  # what the Tab key offers
    return sorted({*globals(), *import_module("folovllm.course.public").__all__})
