"""``check``: what the notebooks call to have a learner's function judged."""

from folovllm.course import (
    config_exercises,
    flow_exercises,
    loading_exercises,
    patterns_exercises,
    sampling_exercises,
    sequence_exercises,
)
from folovllm.course.exercises import Answer, Exercise

CHAPTERS = {
    "01_config": config_exercises.EXERCISES,
    "02_sampling": sampling_exercises.EXERCISES,
    "03_sequences": sequence_exercises.EXERCISES,
    "04_loading": loading_exercises.EXERCISES,
    "05_data_flow": flow_exercises.EXERCISES,
    "06_patterns_and_next": patterns_exercises.EXERCISES,
}
"""The exercises of each notebook."""
EXERCISES = [exercise for chapter in CHAPTERS.values() for exercise in chapter]


def check(name: str, answer: Answer) -> None:
    """Try a learner's function and print what to make of it."""
    right, verdict = find_exercise(name).judge(answer)
    print(f"{name}: {'✔ ' if right else ''}{verdict}")


def find_exercise(name: str) -> Exercise:
    """Return the exercise of that name."""
    known = {exercise.name: exercise for exercise in EXERCISES}
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    return known[name]
