"""The capstone of chapter 06: its exercise, and beside it the checks of a parameter, a sampler and tests."""

from folovllm.course.exercises.patterns import epsilon

EXERCISES = [epsilon.EXERCISE]
