"""What the notebooks show: widgets and figures over the engine's own functions. The engine never imports it."""

from folovllm.course.environment import print_environment
from folovllm.course.prompt_box import PromptBox

__all__ = ["PromptBox", "print_environment"]
