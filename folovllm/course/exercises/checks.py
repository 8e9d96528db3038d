"""``check``: what the notebooks call to have a learner's function judged."""

from folovllm.course.exercises import config, data_flow, loading, numbers, patterns, sampling, sequences
from folovllm.course.exercises.exercise import Exercise
from folovllm.course.exercises.outcome import Answer
from folovllm.language import _, labelled

CHAPTERS = {
    "01_config": config.EXERCISES,
    "02_sampling": sampling.EXERCISES,
    "03_sequences": sequences.EXERCISES,
    "04_loading": loading.EXERCISES,
    "04b_numbers": numbers.EXERCISES,
    "05_data_flow": data_flow.EXERCISES,
    "06_patterns_and_next": patterns.EXERCISES,
}
"""The exercises of each notebook."""
EXERCISES = [exercise for chapter in CHAPTERS.values() for exercise in chapter]


def check(name: str, answer: Answer) -> None:
    """Try a learner's function and print what to make of it."""
    exercise = find_exercise(name)
    if not callable(answer):
        print(_("{name}: give the function itself, without brackets: check({name!r}, my_{name})").format(name=name))
        return
    right, verdict = exercise.judge(answer)
    print(labelled(name, f"{'✔ ' if right else ''}{verdict}"))


def find_exercise(name: str) -> Exercise:
    """Return the exercise of that name."""
    known = {exercise.name: exercise for exercise in EXERCISES}
    if name not in known:
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    return known[name]
