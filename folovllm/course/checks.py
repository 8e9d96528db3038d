"""``check``: what the notebooks call to have a learner's function judged."""

from folovllm.course.exercises import Answer, Exercise
from folovllm.course.sampling_exercises import EXERCISES

_KNOWN = {exercise.name: exercise for exercise in EXERCISES}


def check(name: str, answer: Answer) -> None:
    """Try a learner's function and print what to make of it."""
    right, verdict = find_exercise(name).judge(answer)
    print(f"{name}: {'✔ ' if right else ''}{verdict}")


def find_exercise(name: str) -> Exercise:
    """Return the exercise of that name."""
    if name not in _KNOWN:
        raise ValueError(f"name must be one of {', '.join(_KNOWN)}, got {name!r}")
    return _KNOWN[name]
